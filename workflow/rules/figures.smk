# A rule for each experiment, as each has figures of its own. All of them are drawn in one process: to start it takes
# longer than to draw one.
for name in filter(jobs.figures, EXPERIMENTS):

    # Needs the tables that the figures of the experiment read. Makes them in every format, with their captions.
    rule:
        name:
            f"figures_{name}"
        input:
            lambda wildcards, name=name: jobs.figure_inputs(name, wildcards.scale),
        output:
            *[
                report(
                    f"figures/{{scale}}/{name}_{figure}.png",
                    caption="../report/figure.rst",
                    category=name,
                    labels={"figure": figure, "scale": "{scale}"},
                )
                for figure in jobs.figures(name)
            ],
            expand(
                "figures/{{scale}}/{name}_{figure}.{suffix}",
                name=name,
                figure=jobs.figures(name),
                suffix=["pdf", "svg", "txt"],
            ),
        log:
            f"results/{{scale}}/{name}/logs/figures.log",
        benchmark:
            f"results/{{scale}}/benchmarks/figures/{name}.tsv"
        conda:
            "../../environment.yml"
        params:
            key=lambda wildcards, name=name: jobs.figures_key(name, wildcards.scale),
            experiment=name,
            results=lambda wildcards, name=name: f"results/{wildcards.scale}/{name}",
            folder=lambda wildcards: f"figures/{wildcards.scale}",
        shell:
            "fluidwait experiment figures {params.experiment} --scale {wildcards.scale}"
            " --results {params.results} --out {params.folder} > {log} 2>&1"
