"""One main for each kind of process that a node starts; `processes.spec.Kind` names them."""
