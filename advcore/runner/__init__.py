"""The only folder that knows names, files and YAML."""
