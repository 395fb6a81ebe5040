// ComfyUI imports this file into its page; what it shows is served by the panel itself.
