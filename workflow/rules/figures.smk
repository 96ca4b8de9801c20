# Needs the tables of the experiment that this kind of figure reads. Makes it in every format, with its caption.
rule figure:
    input:
        figure_tables,
    output:
        png=report(
            "figures/{scale}/{experiment}_{figure}.png",
            caption="../report/figure.rst",
            category="{experiment}",
            labels={"figure": "{figure}", "scale": "{scale}"},
        ),
        pdf="figures/{scale}/{experiment}_{figure}.pdf",
        svg="figures/{scale}/{experiment}_{figure}.svg",
        txt="figures/{scale}/{experiment}_{figure}.txt",
    log:
        "results/{scale}/{experiment}/logs/figure_{figure}.log",
    benchmark:
        "results/{scale}/benchmarks/figure/{experiment}.{figure}.tsv"
    conda:
        "../../environment.yml"
    params:
        key=lambda wildcards: jobs.shared_key(
            wildcards.experiment,
            wildcards.scale,
            "fluidwait.experiments.draw",
            f"fluidwait.figures.{wildcards.figure}",
        ),
        results=lambda wildcards: f"results/{wildcards.scale}/{wildcards.experiment}",
    shell:
        "fluidwait experiment figure {wildcards.experiment} {wildcards.figure} --scale {wildcards.scale}"
        " --results {params.results} --out {output.png} --out {output.pdf} --out {output.svg} --out {output.txt}"
        " > {log} 2>&1"
