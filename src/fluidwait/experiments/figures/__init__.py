"""Kinds of figures of an experiment, one file each, found by their names.

A file has

* ``INPUTS``: the tables that are read, below ``results/<scale>/<experiment>``; ``{policy}`` stands for every policy,
* ``make(results, experiment) -> figure`` and ``caption(results, experiment) -> text``, with ``results`` that folder and
  ``experiment`` a mapping with ``id``, ``title``, ``labels`` (policy key to label, in the order of drawing), ``scale``
  and more, see :func:`fluidwait.experiments.drawing.described`,
* if an experiment may lack what the figure needs, ``check(setting, scale)``, which raises a ``ConfigError``,
* if it shows some of the policies only, ``policies(experiment) -> list of their keys``.
"""
