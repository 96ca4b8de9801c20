# Needs the final tables, figures and claims of all configured experiments. Makes every number that the report prints.
rule report_data:
    input:
        report_inputs,
    output:
        json="results/{scale}/report.json",
    log:
        "results/{scale}/logs/report_data.log",
    benchmark:
        "results/{scale}/benchmarks/report_data/all.tsv"
    conda:
        "../../environment.yml"
    params:
        key=document_key,
    shell:
        "fluidwait report data {input} --scale {wildcards.scale} --out {output.json} > {log} 2>&1"


# Needs those numbers and the words. Makes the report, the same bytes every time.
rule report:
    input:
        source="paper/report.typ",
        style="paper/style.typ",
        json="results/{scale}/report.json",
    output:
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
        "fluidwait report pdf {input.source} {input.json} --out {output.pdf} > {log} 2>&1"


# Needs all results, whose jobs left benchmark files. Makes their sums by rule, which differ from run to run.
rule rule_times:
    input:
        "results/{scale}/report.pdf",
    output:
        csv="results/{scale}/rule_times.csv",
    log:
        "results/{scale}/logs/rule_times.log",
    conda:
        "../../environment.yml"
    shell:
        "fluidwait report times --scale {wildcards.scale} --out {output.csv} > {log} 2>&1"


# Needs those sums and the words around them. Makes the appendix, which differs from run to run as well.
rule appendix:
    input:
        source="paper/appendix.typ",
        style="paper/style.typ",
        csv="results/{scale}/rule_times.csv",
    output:
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
        "fluidwait report pdf {input.source} {input.csv} --out {output.pdf} > {log} 2>&1"
