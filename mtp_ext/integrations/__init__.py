"""Where models of other libraries enter. Nothing here is imported by `import mtp_ext`."""
