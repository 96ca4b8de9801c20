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


# Needs the winners of the tuning, if the policy is tuned. Makes the record of every run: all rates, all replications.
rule sweep:
    input:
        tuning=tuning_table,
    output:
        parquet="results/{scale}/{experiment}/records/{policy}.parquet",
    log:
        "results/{scale}/{experiment}/logs/sweep_{policy}.log",
    conda:
        "../../environment.yml"
    params:
        key=policy_key,
        tuning=lambda wildcards, input: f"--tuning {input.tuning}" if input.tuning else "",
    shell:
        "fluidwait experiment sweep {wildcards.experiment} {wildcards.policy} --scale {wildcards.scale}"
        " {params.tuning} --out {output.parquet} > {log} 2>&1"


# Needs the same. Repeats a sample of the runs in real Vidur and fails if any request differs.
rule audit:
    input:
        tuning=tuning_table,
    output:
        csv="results/{scale}/{experiment}/audit/{policy}.csv",
    log:
        "results/{scale}/{experiment}/logs/audit_{policy}.log",
    conda:
        "../../environment.yml"
    params:
        key=policy_key,
        audit=lambda wildcards: jobs.shared_key(wildcards.experiment, wildcards.scale, "fluidwait.experiments.audit"),
        tuning=lambda wildcards, input: f"--tuning {input.tuning}" if input.tuning else "",
    shell:
        "fluidwait experiment audit {wildcards.experiment} {wildcards.policy} --scale {wildcards.scale}"
        " {params.tuning} --out {output.csv} > {log} 2>&1"


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
