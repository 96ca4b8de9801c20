# Needs the configuration only. Makes the fluid equilibrium and the thresholds at every rate, of all experiments at once:
# it takes less time than starting a process for each.
rule thresholds:
    output:
        csv=expand("results/{{scale}}/{experiment}/thresholds.csv", experiment=EXPERIMENTS),
        json=expand("results/{{scale}}/{experiment}/thresholds.json", experiment=EXPERIMENTS),
    log:
        "results/{scale}/logs/thresholds.log",
    benchmark:
        "results/{scale}/benchmarks/thresholds/all.tsv"
    conda:
        "../../environment.yml"
    params:
        key=lambda wildcards: jobs.thresholds_key(tuple(EXPERIMENTS), wildcards.scale),
        results=lambda wildcards: f"results/{wildcards.scale}",
        experiments=" ".join(EXPERIMENTS),
    shell:
        "fluidwait experiment thresholds {params.experiments} --scale {wildcards.scale}"
        " --results {params.results} > {log} 2>&1"
