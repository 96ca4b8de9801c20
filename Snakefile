# The workflow lives in workflow/; this file lets plain `snakemake --cores all` find it.
include: "workflow/Snakefile"


# Only that of the main file counts.
onerror:
    tell_reasons()


# Included rules are never the default target, so name it here.
rule default:
    default_target: True
    input:
        rules.all.input,
