// Package lint checks what is in deploy/, as far as a machine without a
// container engine, a Kubernetes and a Prometheus can: by their own parsers and
// engines, called as libraries.
//
//   - rules_test.go: alerts are rules that Prometheus accepts, with a runbook
//     each, and behave as deploy/prometheus/rules_test.yaml (promtool's format) says;
//   - dashboard_test.go: the dashboard is what its generator makes, every query
//     parses, and units fit;
//   - scrape_test.go: rules and dashboard use only metrics that a running server
//     shows, and names follow Prometheus' practice;
//   - helm_test.go: Helm lints and renders the chart with several sets of
//     values, and Kubernetes' own types decode the result strictly;
//   - docker_test.go, compose_test.go, systemd_test.go: the Dockerfile, the
//     Compose file and the units, and that all speak of flags that exist.
//
// It is a module of its own: what these libraries drag in never reaches the
// product. Tests run one after the other but for what Go's runner does.
//
// What it does not do: start containers, or talk to any cluster.
package lint
