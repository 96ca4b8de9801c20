"""Claims of the paper as data, judged by rule.

``paper/claims.yaml`` states every claim with its checks (:mod:`.claim`). Each check is a query over artifacts whose
integrity is verified first (:mod:`.evidence`); the verdict follows from the checks (:mod:`.judge`), the explanation
from the verdict and its numbers (:mod:`.sentences`). :mod:`.scorecard` writes all of it down.
"""
