# Needs the final tables, figures and claims of all configured experiments, and the words. Makes every number that the
# report prints, and the report, the same bytes every time.
rule report:
    input:
        source="paper/report.typ",
        style="paper/style.typ",
        files=report_inputs,
    output:
        json="results/{scale}/report.json",
        pdf=report(
            "results/{scale}/report.pdf",
            caption="../report/report.rst",
            category="Report",
            labels={"document": "report", "scale": "{scale}"},
        ),
    log:
        "results/{scale}/logs/report.log",
    benchmark:
        "results/{scale}/benchmarks/report/all.tsv"
    conda:
        "../../environment.yml"
    params:
        key=document_key,
    shell:
        "fluidwait report document {input.source} {input.files} --scale {wildcards.scale}"
        " --data {output.json} --out {output.pdf} > {log} 2>&1"


# Needs all results, whose jobs left benchmark files, and the words. Makes the sums of their times by rule and the
# appendix, which differ from run to run.
rule appendix:
    input:
        "results/{scale}/report.pdf",
        source="paper/appendix.typ",
        style="paper/style.typ",
    output:
        csv="results/{scale}/rule_times.csv",
        pdf=report(
            "results/{scale}/appendix.pdf",
            caption="../report/appendix.rst",
            category="Report",
            labels={"document": "appendix: times", "scale": "{scale}"},
        ),
    log:
        "results/{scale}/logs/appendix.log",
    conda:
        "../../environment.yml"
    params:
        key=document_key,
    shell:
        "fluidwait report appendix {input.source} --scale {wildcards.scale}"
        " --times {output.csv} --out {output.pdf} > {log} 2>&1"
