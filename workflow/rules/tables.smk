# Needs the metrics and boundaries of all policies. Makes means with 95 % confidence
# intervals, and λ*, measured and predicted.
rule summary:
    input:
        metrics=lambda wildcards: policy_tables(wildcards, "metrics"),
        boundary=lambda wildcards: policy_tables(wildcards, "boundary"),
    output:
        csv="results/{scale}/{experiment}/summary.csv",
        stability="results/{scale}/{experiment}/stability.csv",
    log:
        "results/{scale}/{experiment}/logs/summary.log",
    benchmark:
        "results/{scale}/benchmarks/summary/{experiment}.tsv"
    conda:
        "../../environment.yml"
    params:
        key=lambda wildcards: jobs.summary_key(wildcards.experiment, wildcards.scale),
        boundary=lambda wildcards, input: [f"--boundary {table}" for table in input.boundary],
    shell:
        "fluidwait experiment summary {wildcards.experiment} {input.metrics} {params.boundary}"
        " --out {output.csv} --stability {output.stability} > {log} 2>&1"


# Needs the published latencies of E1 and attention measurements. Makes ours beside them, and the published runs replayed.
rule reference:
    input:
        published="data/reference/e1_published.csv",
        medians="data/reference/attention_medians.csv",
    output:
        csv="results/{scale}/{experiment}/reference.csv",
    log:
        "results/{scale}/{experiment}/logs/reference.log",
    benchmark:
        "results/{scale}/benchmarks/reference/{experiment}.tsv"
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
    benchmark:
        "results/{scale}/benchmarks/parameters/all.tsv"
    conda:
        "../../environment.yml"
    params:
        key=lambda wildcards: jobs.parameters_key(tuple(EXPERIMENTS), wildcards.scale),
        experiments=" ".join(EXPERIMENTS),
    shell:
        "fluidwait experiment parameters {params.experiments} --scale {wildcards.scale}"
        " --out {output.csv} > {log} 2>&1"
