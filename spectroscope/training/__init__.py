"""Recording a model during its training."""
