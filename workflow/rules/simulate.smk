# Needs the configuration only. Tries every combination of a policy's grid at every rate, on the tuning seeds.
rule tune:
    output:
        csv="results/{scale}/{experiment}/tuning/{policy}.csv",
    log:
        "results/{scale}/{experiment}/logs/tune_{policy}.log",
    conda:
        "../../environment.yml"
    params:
        key=policy_key,
    shell:
        "fluidwait experiment tune {wildcards.experiment} {wildcards.policy} --scale {wildcards.scale}"
        " --out {output.csv} > {log} 2>&1"


# Needs the winners of the tuning, if the policy is tuned. Makes the record of every run (all rates, all replications),
# repeats a sample of them in real Vidur, failing if any request differs, and makes one row of metrics per run after
# checking it: drained, causal, Little's law.
rule sweep:
    input:
        tuning=tuning_table,
    output:
        records="results/{scale}/{experiment}/records/{policy}.parquet",
        audit="results/{scale}/{experiment}/audit/{policy}.csv",
        metrics="results/{scale}/{experiment}/metrics/{policy}.csv",
    log:
        "results/{scale}/{experiment}/logs/sweep_{policy}.log",
    conda:
        "../../environment.yml"
    params:
        key=lambda wildcards: jobs.sweep_key(wildcards.experiment, wildcards.policy, wildcards.scale),
        tuning=lambda wildcards, input: f"--tuning {input.tuning}" if input.tuning else "",
    shell:
        "fluidwait experiment sweep {wildcards.experiment} {wildcards.policy} --scale {wildcards.scale}"
        " {params.tuning} --out {output.records} --audit {output.audit} --metrics {output.metrics} > {log} 2>&1"


# Needs the same. Makes the memory of one replication against time, at the rates under `traces`.
rule trace:
    input:
        tuning=tuning_table,
    output:
        csv="results/{scale}/{experiment}/trace/{policy}.csv",
    log:
        "results/{scale}/{experiment}/logs/trace_{policy}.log",
    conda:
        "../../environment.yml"
    params:
        key=policy_key,
        trace=lambda wildcards: jobs.shared_key(wildcards.experiment, wildcards.scale, "fluidwait.experiments.trace"),
        tuning=lambda wildcards, input: f"--tuning {input.tuning}" if input.tuning else "",
    shell:
        "fluidwait experiment trace {wildcards.experiment} {wildcards.policy} --scale {wildcards.scale}"
        " {params.tuning} --out {output.csv} > {log} 2>&1"
