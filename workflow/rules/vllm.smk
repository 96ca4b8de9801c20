# E9 and E10 on the real engine. With vLLM the CPU target is measured here; without, what was recorded is drawn.
# The GPU target is measured only when asked for: snakemake gpu


wildcard_constraints:
    machine="|".join(sorted({*real.TARGETS, *BUNDLES})),
    real_figure="|".join(real.figures()),
    target="|".join(real.TARGETS),


# Needs vLLM, on the machine that is to be measured, alone on it. Calibrates it and runs every policy at every rate.
# Finished points are kept, so a recording that is cut short goes on from there.
rule real_record:
    output:
        bundle="recordings/{target}/bundle.json",
    log:
        "recordings/{target}/logs/record.log",
    benchmark:
        "recordings/{target}/benchmarks/record.tsv"
    conda:
        "../../environment.yml"
    threads: workflow.cores
    params:
        key=lambda wildcards: real.record_key(wildcards.target),
        folder=lambda wildcards, output: os.path.dirname(output.bundle),
    shell:
        "fluidwait real record {wildcards.target} --out {params.folder} > {log} 2>&1"


# Needs a bundle. Makes the tables of E9 (fit, simulator against reality) and of E10 (latency, gain).
rule real_tables:
    input:
        bundle=lambda wildcards: f"{bundle_of(wildcards.machine)}/bundle.json",
    output:
        e9=[f"results/{{scale}}/e9/{{machine}}/{table}.csv" for table in real.TABLES["e9"]],
        e10=[f"results/{{scale}}/e10/{{machine}}/{table}.csv" for table in real.TABLES["e10"]],
    log:
        "results/{scale}/e9/logs/tables_{machine}.log",
    benchmark:
        "results/{scale}/benchmarks/real_tables/{machine}.tsv"
    conda:
        "../../environment.yml"
    params:
        key=lambda wildcards: real.table_key(),
        folder=lambda wildcards: bundle_of(wildcards.machine),
        results=lambda wildcards: f"results/{wildcards.scale}",
    shell:
        "fluidwait real tables {params.folder} --e9 {params.results}/e9/{wildcards.machine}"
        " --e10 {params.results}/e10/{wildcards.machine} > {log} 2>&1"


# Needs the tables of a bundle. Makes a figure in every format, with its caption, which says who measured and when.
rule real_figure:
    input:
        bundle=lambda wildcards: f"{bundle_of(wildcards.machine)}/bundle.json",
        tables=real_figure_tables,
    output:
        png=report(
            "figures/{scale}/{real_figure}_{machine}.png",
            caption="../report/real.rst",
            category="{real_figure}",
            labels={"figure": "{machine}", "scale": "{scale}"},
        ),
        pdf="figures/{scale}/{real_figure}_{machine}.pdf",
        svg="figures/{scale}/{real_figure}_{machine}.svg",
        txt="figures/{scale}/{real_figure}_{machine}.txt",
    log:
        "results/{scale}/{real_figure}/logs/figure_{machine}.log",
    benchmark:
        "results/{scale}/benchmarks/real_figure/{real_figure}.{machine}.tsv"
    conda:
        "../../environment.yml"
    params:
        key=lambda wildcards: real.figure_key(),
        folder=lambda wildcards: bundle_of(wildcards.machine),
        fresh=lambda wildcards: "--fresh" if real.is_fresh(bundle_of(wildcards.machine)) else "",
        results=lambda wildcards: f"results/{wildcards.scale}/{wildcards.real_figure}/{wildcards.machine}",
    shell:
        "fluidwait real figure {wildcards.real_figure} {params.folder} --results {params.results} {params.fresh}"
        " --out {output.png} --out {output.pdf} --out {output.svg} --out {output.txt} > {log} 2>&1"


# Needs a GPU and vLLM. Records it, keeps the bundle under data/gpu, and draws it.
rule gpu:
    input:
        f"figures/{config['scale']}/e9_gpu.png",
        f"figures/{config['scale']}/e10_gpu.png",
        bundle="recordings/gpu/bundle.json",
    log:
        "recordings/gpu/logs/keep.log",
    conda:
        "../../environment.yml"
    params:
        folder=lambda wildcards, input: os.path.dirname(input.bundle),
    shell:
        "fluidwait real keep {params.folder} > {log} 2>&1"
