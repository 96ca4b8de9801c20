# The workflow lives in workflow/; this file lets plain `snakemake --cores all` find it.
include: "workflow/Snakefile"
