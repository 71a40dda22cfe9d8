"""The stages in order: plan, compress, export, measure, report; each resumable, each keyed by its inputs."""
