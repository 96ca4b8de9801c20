INPUTS = ()
