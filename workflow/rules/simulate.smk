# A key of a policy with a grid matches both rules.
ruleorder: tuned_sweep > sweep


# Needs the configuration only. Makes the record of every run of a policy (all rates, all replications), one row of
# metrics per run after checking it (drained, causal, Little's law), and its stability boundary, bisected in every
# replication: a header only where none is searched, since what a rule makes cannot depend on the experiment.
rule sweep:
    output:
        records="results/{scale}/{experiment}/records/{policy}.parquet",
        metrics="results/{scale}/{experiment}/metrics/{policy}.csv",
        boundary="results/{scale}/{experiment}/boundary/{policy}.csv",
    log:
        "results/{scale}/{experiment}/logs/sweep_{policy}.log",
    benchmark:
        "results/{scale}/benchmarks/sweep/{experiment}.{policy}.tsv"
    conda:
        "../../environment.yml"
    params:
        key=sweep_key,
        tuning="",
    shell:
        "fluidwait experiment sweep {wildcards.experiment} {wildcards.policy} --scale {wildcards.scale}"
        " {params.tuning} --out {output.records} --metrics {output.metrics} --boundary {output.boundary} > {log} 2>&1"


# The same of a policy with a grid: first tries every combination at every rate, on the tuning seeds.
use rule sweep as tuned_sweep with:
    output:
        tuning="results/{scale}/{experiment}/tuning/{policy}.csv",
        records="results/{scale}/{experiment}/records/{policy}.parquet",
        metrics="results/{scale}/{experiment}/metrics/{policy}.csv",
        boundary="results/{scale}/{experiment}/boundary/{policy}.csv",
    benchmark:
        "results/{scale}/benchmarks/tuned_sweep/{experiment}.{policy}.tsv"
    wildcard_constraints:
        policy="|".join(TUNED) or "(?!)",
    params:
        key=sweep_key,
        tuning=lambda wildcards, output: f"--tuning {output.tuning}",


# Needs the winners of all tuned policies. Repeats a sample of the runs in real Vidur, failing if any request differs.
rule audit:
    input:
        tuning=tuning_tables,
    output:
        csv="results/{scale}/{experiment}/audit.csv",
    log:
        "results/{scale}/{experiment}/logs/audit.log",
    benchmark:
        "results/{scale}/benchmarks/audit/{experiment}.tsv"
    conda:
        "../../environment.yml"
    params:
        key=lambda wildcards: jobs.audit_key(wildcards.experiment, wildcards.scale),
        tuning=lambda wildcards, input: [f"--tuning {table}" for table in input.tuning],
    shell:
        "fluidwait experiment audit {wildcards.experiment} --scale {wildcards.scale}"
        " {params.tuning} --out {output.csv} > {log} 2>&1"


# Needs the winners of the tuning, if the policy is tuned. Makes the memory of one replication against time, at the rates under `traces`.
rule trace:
    input:
        tuning=tuning_table,
    output:
        csv="results/{scale}/{experiment}/trace/{policy}.csv",
    log:
        "results/{scale}/{experiment}/logs/trace_{policy}.log",
    benchmark:
        "results/{scale}/benchmarks/trace/{experiment}.{policy}.tsv"
    conda:
        "../../environment.yml"
    params:
        key=policy_key,
        trace=lambda wildcards: jobs.shared_key(wildcards.experiment, wildcards.scale, "fluidwait.experiments.trace"),
        tuning=lambda wildcards, input: f"--tuning {input.tuning}" if input.tuning else "",
    shell:
        "fluidwait experiment trace {wildcards.experiment} {wildcards.policy} --scale {wildcards.scale}"
        " {params.tuning} --out {output.csv} > {log} 2>&1"
