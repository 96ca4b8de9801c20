# Needs the records of a policy. Makes one row of metrics per run and checks every run: drained, causal, Little's law.
rule metrics:
    input:
        parquet="results/{scale}/{experiment}/records/{policy}.parquet",
    output:
        csv="results/{scale}/{experiment}/metrics/{policy}.csv",
    log:
        "results/{scale}/{experiment}/logs/metrics_{policy}.log",
    conda:
        "../../environment.yml"
    params:
        key=lambda wildcards: jobs.metrics_key(wildcards.experiment),
    shell:
        "fluidwait experiment metrics {wildcards.experiment} {input.parquet} --out {output.csv} > {log} 2>&1"


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
