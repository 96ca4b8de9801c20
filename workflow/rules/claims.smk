# Needs the tables that the claims of the experiments made are judged by. Judges them: verdicts, numbers, explanations.
rule claims:
    input:
        claims="paper/claims.yaml",
        evidence=claims_evidence,
    output:
        json="results/{scale}/claims.json",
        csv=report(
            "results/{scale}/scorecard.csv",
            caption="../report/scorecard.rst",
            category="Report",
            labels={"document": "scorecard", "scale": "{scale}"},
        ),
        md="results/{scale}/scorecard.md",
    log:
        "results/{scale}/logs/claims.log",
    benchmark:
        "results/{scale}/benchmarks/claims/all.tsv"
    conda:
        "../../environment.yml"
    params:
        key=claims.key([*EXPERIMENTS, *STUDIES]),
        made=",".join([*EXPERIMENTS, *STUDIES]),
    shell:
        "fluidwait claims --scale {wildcards.scale} --experiments {params.made} > {log} 2>&1"
