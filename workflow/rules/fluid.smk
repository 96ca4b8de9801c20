# Needs the configuration only. Makes the fluid equilibrium and the thresholds at every rate.
rule thresholds:
    output:
        csv="results/{scale}/{experiment}/thresholds.csv",
        json="results/{scale}/{experiment}/thresholds.json",
    log:
        "results/{scale}/{experiment}/logs/thresholds.log",
    benchmark:
        "results/{scale}/benchmarks/thresholds/{experiment}.tsv"
    conda:
        "../../environment.yml"
    params:
        key=shared_key("fluidwait.experiments.fluid_tables"),
    shell:
        "fluidwait experiment thresholds {wildcards.experiment} --scale {wildcards.scale}"
        " --out {output.csv} > {log} 2>&1"
