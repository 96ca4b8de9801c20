# Studies that are not sweeps over rates: E6, memory against segments, and E11, the theorems in simulation.


# Needs the configuration only. Makes the memory terms of Nested WAIT and what they say under other choices.
rule study_memory:
    output:
        csv="results/{scale}/{study}/memory.csv",
        answers="results/{scale}/{study}/answers.csv",
    log:
        "results/{scale}/{study}/logs/memory.log",
    benchmark:
        "results/{scale}/benchmarks/study_memory/{study}.tsv"
    conda:
        "../../environment.yml"
    params:
        key=lambda wildcards: studies.key(wildcards.study, "memory", wildcards.scale),
    shell:
        "fluidwait study memory {wildcards.study} --scale {wildcards.scale}"
        " --out {output.csv} --answers {output.answers} > {log} 2>&1"


# Needs the configuration only. Simulates one part of the scaling table: all its cases, all replications.
rule study_runs:
    output:
        csv="results/{scale}/{study}/runs/{part}.csv",
    log:
        "results/{scale}/{study}/logs/runs_{part}.log",
    benchmark:
        "results/{scale}/benchmarks/study_runs/{study}.{part}.tsv"
    conda:
        "../../environment.yml"
    params:
        key=lambda wildcards: studies.key(wildcards.study, f"runs/{wildcards.part}", wildcards.scale),
    shell:
        "fluidwait study runs {wildcards.study} {wildcards.part} --scale {wildcards.scale}"
        " --out {output.csv} > {log} 2>&1"


# Needs the runs of all parts. Makes the means against the horizon and the fitted exponents.
rule study_scaling:
    input:
        study_parts,
    output:
        csv="results/{scale}/{study}/scaling.csv",
        exponents="results/{scale}/{study}/exponents.csv",
    log:
        "results/{scale}/{study}/logs/scaling.log",
    benchmark:
        "results/{scale}/benchmarks/study_scaling/{study}.tsv"
    conda:
        "../../environment.yml"
    params:
        key=lambda wildcards: studies.key(wildcards.study, "scaling", wildcards.scale),
    shell:
        "fluidwait study scaling {wildcards.study} {input} --scale {wildcards.scale}"
        " --out {output.csv} --exponents {output.exponents} > {log} 2>&1"


# Needs the configuration only. Simulates the policies at C = M* and makes their throughput gaps.
rule study_gaps:
    output:
        csv="results/{scale}/{study}/{table}_gap.csv",
    log:
        "results/{scale}/{study}/logs/{table}_gap.log",
    benchmark:
        "results/{scale}/benchmarks/study_gaps/{study}.{table}.tsv"
    wildcard_constraints:
        table="fcfs|unknown",
    conda:
        "../../environment.yml"
    params:
        key=lambda wildcards: studies.key(wildcards.study, f"{wildcards.table}_gap", wildcards.scale),
    shell:
        "fluidwait study gaps {wildcards.study} {wildcards.table}_gap --scale {wildcards.scale}"
        " --out {output.csv} > {log} 2>&1"


# Needs the configuration only. Makes the toy example, or the overflow frequencies of Nested WAIT.
rule study_table:
    output:
        csv="results/{scale}/{study}/{table}.csv",
    log:
        "results/{scale}/{study}/logs/{table}.log",
    benchmark:
        "results/{scale}/benchmarks/study_table/{study}.{table}.tsv"
    wildcard_constraints:
        table="toy|overflow",
    conda:
        "../../environment.yml"
    params:
        key=lambda wildcards: studies.key(wildcards.study, wildcards.table, wildcards.scale),
    shell:
        "fluidwait study {wildcards.table} {wildcards.study} --scale {wildcards.scale} --out {output.csv} > {log} 2>&1"


# Needs the tables that the figure reads. Makes it in every format, with its caption.
rule study_figure:
    input:
        study_figure_tables,
    output:
        png=report(
            "figures/{scale}/{study_figure}.png",
            caption="../report/study.rst",
            category="studies",
            labels={"figure": "{study_figure}", "scale": "{scale}"},
        ),
        pdf="figures/{scale}/{study_figure}.pdf",
        svg="figures/{scale}/{study_figure}.svg",
        txt="figures/{scale}/{study_figure}.txt",
    log:
        "results/{scale}/logs/{study_figure}.log",
    benchmark:
        "results/{scale}/benchmarks/study_figure/{study_figure}.tsv"
    conda:
        "../../environment.yml"
    params:
        key=lambda wildcards: studies.figure_key(
            study_of(wildcards.study_figure), wildcards.study_figure, wildcards.scale
        ),
        study=lambda wildcards: study_of(wildcards.study_figure),
    shell:
        "fluidwait study figure {params.study} {wildcards.study_figure} --scale {wildcards.scale}"
        " --results results/{wildcards.scale}/{params.study}"
        " --out {output.png} --out {output.pdf} --out {output.svg} --out {output.txt} > {log} 2>&1"
