"""Real pods: the charts on a node with containerd, kubelet, names and network policies: `make cluster-pods`."""
