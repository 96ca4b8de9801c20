# Needs the metrics of all policies. Makes means and 95 % confidence intervals.
rule summary:
    input:
        metrics_tables,
    output:
        csv="results/{scale}/{experiment}/summary.csv",
    log:
        "results/{scale}/{experiment}/logs/summary.log",
    conda:
        "../../environment.yml"
    params:
        key=shared_key("fluidwait.experiments.summary"),
    shell:
        "fluidwait experiment summary {wildcards.experiment} {input} --out {output.csv} > {log} 2>&1"


# Needs the published latencies of E1 and attention measurements. Makes ours beside them, and the published runs replayed.
rule reference:
    input:
        published="data/reference/e1_published.csv",
        medians="data/reference/attention_medians.csv",
    output:
        csv="results/{scale}/{experiment}/reference.csv",
    log:
        "results/{scale}/{experiment}/logs/reference.log",
    conda:
        "../../environment.yml"
    params:
        key=shared_key("fluidwait.experiments.reference"),
    shell:
        "fluidwait experiment reference {wildcards.experiment} --scale {wildcards.scale}"
        " --out {output.csv} > {log} 2>&1"


# Needs the configuration only. Makes the table of every setting of every experiment.
rule parameters:
    output:
        csv="results/{scale}/parameters.csv",
    log:
        "results/{scale}/logs/parameters.log",
    conda:
        "../../environment.yml"
    params:
        key=lambda wildcards: jobs.parameters_key(tuple(EXPERIMENTS), wildcards.scale),
        experiments=" ".join(EXPERIMENTS),
    shell:
        "fluidwait experiment parameters {params.experiments} --scale {wildcards.scale}"
        " --out {output.csv} > {log} 2>&1"
