"""Three engines that run the same policies: the compiled simulator, real Vidur, real vLLM."""
