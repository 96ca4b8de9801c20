# A key of a policy with a grid matches both rules.
ruleorder: tuned_sweep > sweep


# Needs the configuration only. Makes the record of every run of a policy (all rates, all replications), one row of
# metrics per run after checking it (drained, causal, Little's law), and its stability boundary, bisected in every
# replication; where none is searched, a header only, as one rule serves every experiment.
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


# A rule for each experiment, as each has other policies whose memory is asked for.
for name in filter(jobs.traced, EXPERIMENTS):

    # Needs the winners of tuned policies. Makes the memory of one replication against time, at the rates under `traces`.
    rule:
        name:
            f"trace_{name}"
        input:
            tuning=expand(
                "results/{{scale}}/{name}/tuning/{policy}.csv",
                name=name,
                policy=[policy for policy in jobs.traced(name) if jobs.is_tuned(name, policy)],
            ),
        output:
            csv=expand("results/{{scale}}/{name}/trace/{policy}.csv", name=name, policy=jobs.traced(name)),
        log:
            f"results/{{scale}}/{name}/logs/trace.log",
        benchmark:
            f"results/{{scale}}/benchmarks/trace/{name}.tsv"
        conda:
            "../../environment.yml"
        params:
            key=lambda wildcards, name=name: jobs.trace_key(name, wildcards.scale),
            experiment=name,
            tuning=lambda wildcards, input: [f"--tuning {table}" for table in input.tuning],
            folder=lambda wildcards, output: os.path.dirname(output.csv[0]),
        shell:
            "fluidwait experiment trace {params.experiment} --scale {wildcards.scale}"
            " {params.tuning} --out {params.folder} > {log} 2>&1"
