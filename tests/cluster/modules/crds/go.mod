// Definitions of custom resources: files of these modules, nothing is built.
module eoforge.io/tests/cluster/crds

go 1.26

require (
	github.com/cert-manager/cert-manager v1.19.1
	github.com/kedacore/keda/v2 v2.18.1
	github.com/prometheus-operator/prometheus-operator v0.85.0
	sigs.k8s.io/gateway-api v1.5.1
)
