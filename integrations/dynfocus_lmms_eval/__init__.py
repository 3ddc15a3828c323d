"""`lmms-eval --model dynfocus`: the reference model, or any host with or without a connector, on every benchmark."""
