# Needs the stability tables of all experiments with searched boundaries. Makes λ* and its share of the fluid bound.
rule boundaries:
    input:
        stability_tables,
    output:
        csv="results/{scale}/boundaries.csv",
    log:
        "results/{scale}/logs/boundaries.log",
    benchmark:
        "results/{scale}/benchmarks/boundaries/all.tsv"
    conda:
        "../../environment.yml"
    params:
        key=jobs.bounds_key(searched_experiments()),
    shell:
        "fluidwait experiment boundaries {input} --out {output.csv} > {log} 2>&1"


# Needs the table above. Makes its figure in every format, with its caption.
rule boundaries_figure:
    input:
        csv="results/{scale}/boundaries.csv",
    output:
        png=report(
            "figures/{scale}/boundaries.png",
            caption="../report/boundaries.rst",
            category="all experiments",
            labels={"figure": "boundaries", "scale": "{scale}"},
        ),
        pdf="figures/{scale}/boundaries.pdf",
        svg="figures/{scale}/boundaries.svg",
        txt="figures/{scale}/boundaries.txt",
    log:
        "results/{scale}/logs/figure_boundaries.log",
    benchmark:
        "results/{scale}/benchmarks/boundaries_figure/all.tsv"
    conda:
        "../../environment.yml"
    params:
        key=lambda wildcards: jobs.boundaries_figure_key(searched_experiments(), wildcards.scale),
    shell:
        "fluidwait experiment boundaries-figure {input.csv} --scale {wildcards.scale}"
        " --out {output.png} --out {output.pdf} --out {output.svg} --out {output.txt} > {log} 2>&1"
