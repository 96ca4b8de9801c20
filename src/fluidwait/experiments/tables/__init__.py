"""Kinds of tables of an experiment beside those that every experiment has, one file each, found by their names.

A table is made when the experiment lists it under ``tables``, or when one of its figures reads ``<kind>.csv``. A file
has ``table(setting, scale, results) -> polars.DataFrame``, with ``setting`` the resolved experiment
(:class:`fluidwait.experiments.setting.Setting`) and ``results`` the folder ``results/<scale>/<experiment>``. It may
have

* ``INPUTS``: tables of the experiment that are read, below ``results``; ``{policy}`` stands for every policy,
* ``FILES``: other files that are read, from the project's root,
* ``identity(setting, scale) -> dict``: everything in the configuration that decides the table. Without it, everything
  about the experiment does.
* ``check(setting, scale)``, which raises a ``ConfigError`` when the experiment lacks what the table needs.
"""
