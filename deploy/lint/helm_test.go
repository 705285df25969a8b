package lint

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	chartutil "helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const chartDir = "../helm/bongsu"

// release is everything that a chart makes, decoded strictly by Kubernetes' own
// types: a field that they do not have is an error.
type release struct {
	sets     []appsv1.StatefulSet
	services []corev1.Service
	configs  []corev1.ConfigMap
	accounts []corev1.ServiceAccount
	budgets  []policyv1.PodDisruptionBudget
	policies []networkingv1.NetworkPolicy
	jobs     []batchv1.Job
	monitors []monitor
	certs    []certificate
	notes    string
}

// monitor and certificate are the parts of Prometheus Operator's and
// cert-manager's objects that the chart uses (their modules drag in much).
type monitor struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		JobLabel  string               `json:"jobLabel"`
		Selector  metav1.LabelSelector `json:"selector"`
		Endpoints []struct {
			Port          string                             `json:"port"`
			Path          string                             `json:"path"`
			Interval      string                             `json:"interval"`
			Scheme        string                             `json:"scheme"`
			TLSConfig     *struct{ InsecureSkipVerify bool } `json:"tlsConfig"`
			Authorization *struct {
				Type        string                   `json:"type"`
				Credentials corev1.SecretKeySelector `json:"credentials"`
			} `json:"authorization"`
			Relabelings []struct {
				SourceLabels []string `json:"sourceLabels"`
				TargetLabel  string   `json:"targetLabel"`
			} `json:"relabelings"`
		} `json:"endpoints"`
	} `json:"spec"`
}

type certificate struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		SecretName string   `json:"secretName"`
		URIs       []string `json:"uris"`
		DNSNames   []string `json:"dnsNames"`
		Usages     []string `json:"usages"`
		PrivateKey struct {
			Algorithm, RotationPolicy string
			Size                      int
		} `json:"privateKey"`
		Duration    metav1.Duration                    `json:"duration"`
		RenewBefore metav1.Duration                    `json:"renewBefore"`
		IssuerRef   struct{ Name, Kind, Group string } `json:"issuerRef"`
	} `json:"spec"`
}

func valuesOf(t *testing.T, name string) map[string]any {
	t.Helper()
	values := map[string]any{}
	if name == "" {
		return values
	}
	text, err := os.ReadFile(filepath.Join(chartDir, "ci", name+"-values.yaml"))
	if err == nil {
		err = yaml.UnmarshalStrict(text, &values)
	}
	if err != nil {
		t.Fatalf("values %s: %v", name, err)
	}
	return values
}

// render renders the chart as `helm install chat` would in a namespace "talk".
func render(values map[string]any) (map[string]string, error) {
	chart, err := loader.LoadDir(chartDir)
	if err != nil {
		return nil, err
	}
	v, err := chartutil.ToRenderValues(chart, values, common.ReleaseOptions{Name: "bongsu", Namespace: "talk", Revision: 1, IsInstall: true}, nil)
	if err != nil {
		return nil, err
	}
	return engine.Engine{Strict: true}.Render(chart, v)
}

func install(t *testing.T, values map[string]any) (r release) {
	t.Helper()
	files, err := render(values)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if strings.HasSuffix(name, "NOTES.txt") {
			r.notes = text
			continue
		}
		for _, document := range strings.Split("\n"+text, "\n---") {
			if len(settingsOf(strings.TrimSpace(document))) > 0 {
				r.add(t, name, document)
			}
		}
	}
	return r
}

func (r *release) add(t *testing.T, name, document string) {
	t.Helper()
	var head metav1.TypeMeta
	if err := yaml.Unmarshal([]byte(document), &head); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, document)
	}
	var err error
	switch fmt.Sprint(head.APIVersion, " ", head.Kind) {
	case "apps/v1 StatefulSet":
		err = decode(document, &r.sets)
	case "v1 Service":
		err = decode(document, &r.services)
	case "v1 ConfigMap":
		err = decode(document, &r.configs)
	case "v1 ServiceAccount":
		err = decode(document, &r.accounts)
	case "policy/v1 PodDisruptionBudget":
		err = decode(document, &r.budgets)
	case "networking.k8s.io/v1 NetworkPolicy":
		err = decode(document, &r.policies)
	case "batch/v1 Job":
		err = decode(document, &r.jobs)
	case "monitoring.coreos.com/v1 ServiceMonitor":
		err = decode(document, &r.monitors)
	case "cert-manager.io/v1 Certificate":
		err = decode(document, &r.certs)
	default:
		err = fmt.Errorf("a %s %s was not expected", head.APIVersion, head.Kind)
	}
	if err != nil {
		t.Errorf("%s: %v\n%s", name, err, document)
	}
}

func decode[T any](document string, into *[]T) error {
	var one T
	if err := yaml.UnmarshalStrict([]byte(document), &one); err != nil {
		return err
	}
	*into = append(*into, one)
	return nil
}

var valueSets = []string{"", "single", "cert-manager", "everything"}

// Helm's own linter finds nothing, with any of the sets of values.
func TestChartLints(t *testing.T) {
	for _, name := range valueSets {
		result := lint.RunAll(chartDir, valuesOf(t, name), "talk")
		for _, m := range result.Messages {
			if m.Severity > support.InfoSev {
				t.Errorf("values %q: %s", name, m)
			}
		}
	}
}

// What the chart makes is what Kubernetes takes, and what a cluster needs.
func TestChart(t *testing.T) {
	for name, nodes := range map[string]int{"": 3, "single": 1, "cert-manager": 5, "everything": 3} {
		t.Run("values "+name, func(t *testing.T) {
			values := valuesOf(t, name)
			r := install(t, values)
			if len(r.sets) != 1 || len(r.services) != 2 || len(r.configs) != 1 || len(r.accounts) != 1 || r.notes == "" {
				t.Fatalf("%d sets, %d services, %d configurations", len(r.sets), len(r.services), len(r.configs))
			}
			set := r.sets[0]
			if int(*set.Spec.Replicas) != nodes {
				t.Errorf("%d replicas, want %d", *set.Spec.Replicas, nodes)
			}
			checkPods(t, set)
			checkServices(t, r)
			checkConfigs(t, r, nodes)
			if nodes > 1 {
				checkTogether(t, r, nodes)
			} else if len(r.budgets)+len(r.jobs) != 0 {
				t.Error("one node has a budget or is formed")
			}
		})
	}
}

func selects(s *metav1.LabelSelector, labels map[string]string) bool {
	for k, v := range s.MatchLabels {
		if labels[k] != v {
			return false
		}
	}
	return len(s.MatchLabels) > 0
}

// checkPods: they run as nobody, write nothing but data, are probed by what
// says the truth, and come up at once after a total outage.
func checkPods(t *testing.T, set appsv1.StatefulSet) {
	t.Helper()
	pod := set.Spec.Template.Spec
	if !selects(set.Spec.Selector, set.Spec.Template.Labels) {
		t.Errorf("selector %v does not fit %v", set.Spec.Selector, set.Spec.Template.Labels)
	}
	if set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement {
		t.Error("pods that wait for the first to be ready wait for ever after a total outage")
	}
	checkSecurity(t, pod)
	c := pod.Containers[0]
	if p := c.ReadinessProbe; p == nil || p.HTTPGet.Path != "/readyz" {
		t.Errorf("readiness %v", p)
	}
	if p := c.LivenessProbe; p == nil || p.HTTPGet.Path != "/healthz" {
		t.Errorf("liveness %v: a node that is not ready must not be restarted", p)
	}
	if *pod.TerminationGracePeriodSeconds < 30 {
		t.Errorf("%d s to stop", *pod.TerminationGracePeriodSeconds)
	}
	for _, topology := range pod.TopologySpreadConstraints {
		if topology.MaxSkew != 1 || !selects(topology.LabelSelector, set.Spec.Template.Labels) {
			t.Errorf("spread %v", topology)
		}
	}
	if n := len(pod.TopologySpreadConstraints); n != 2 || pod.TopologySpreadConstraints[0].TopologyKey != "topology.kubernetes.io/zone" {
		t.Errorf("%d spread constraints: %v", n, pod.TopologySpreadConstraints)
	}
	if len(set.Spec.VolumeClaimTemplates) != 1 || set.Spec.VolumeClaimTemplates[0].Spec.Resources.Requests.Storage().IsZero() {
		t.Error("no claim of a disk")
	}
	if keep := set.Spec.PersistentVolumeClaimRetentionPolicy; keep == nil || keep.WhenDeleted != appsv1.RetainPersistentVolumeClaimRetentionPolicyType {
		t.Errorf("data is deleted with the set: %v", keep)
	}
	volumes := map[string]bool{"data": true}
	for _, v := range pod.Volumes {
		volumes[v.Name] = true
	}
	for _, m := range c.VolumeMounts {
		if !volumes[m.Name] || m.Name != "data" && !m.ReadOnly {
			t.Errorf("mount %v", m)
		}
	}
}

func checkSecurity(t *testing.T, pod corev1.PodSpec) {
	t.Helper()
	if s := pod.SecurityContext; s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.SeccompProfile == nil {
		t.Errorf("pod's security %v", s)
	}
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		t.Error("the pod is given a token of the cluster")
	}
	for _, c := range append(slices.Clone(pod.InitContainers), pod.Containers...) {
		s := c.SecurityContext
		if s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation || !slices.Contains(s.Capabilities.Drop, "ALL") {
			t.Errorf("%s: security %v", c.Name, s)
		}
		if c.Resources.Limits.Memory().IsZero() || strings.HasSuffix(c.Image, ":latest") || !strings.ContainsAny(c.Image, ":@") {
			t.Errorf("%s: image %s, limits %v", c.Name, c.Image, c.Resources.Limits)
		}
		checkArguments(t, c.Name, argumentsOf(c.Args))
	}
}

// argumentsOf leaves out what stands before the command.
func argumentsOf(args []string) []string {
	if args[0] == "--config" {
		return args[2:]
	}
	return args
}

func checkServices(t *testing.T, r release) {
	t.Helper()
	ports := map[string]bool{}
	for _, p := range r.sets[0].Spec.Template.Spec.Containers[0].Ports {
		ports[p.Name] = true
	}
	headless := 0
	for _, s := range r.services {
		if !selects(&metav1.LabelSelector{MatchLabels: s.Spec.Selector}, r.sets[0].Spec.Template.Labels) {
			t.Errorf("service %s selects %v", s.Name, s.Spec.Selector)
		}
		for _, p := range s.Spec.Ports {
			if !ports[p.TargetPort.String()] {
				t.Errorf("service %s leads to port %v", s.Name, p.TargetPort)
			}
		}
		if s.Spec.ClusterIP == "None" {
			headless++
			if !s.Spec.PublishNotReadyAddresses || s.Name != r.sets[0].Spec.ServiceName {
				t.Errorf("%s: nodes must find each other before they are ready", s.Name)
			}
		}
	}
	if headless != 1 {
		t.Errorf("%d headless services", headless)
	}
	for _, m := range r.monitors {
		fits := 0
		for _, s := range r.services {
			if selects(&m.Spec.Selector, s.Labels) {
				fits++
			}
		}
		if fits != 1 || r.sets[0].Labels[m.Spec.JobLabel] != "bongsu" || m.Spec.Endpoints[0].Path != "/metrics" {
			t.Errorf("the monitor fits %d services, its job is %q", fits, r.sets[0].Labels[m.Spec.JobLabel])
		}
	}
}

// checkConfigs: a file for each pod that the program takes; the first of a new
// cluster, and it alone, asks nobody to be let in.
func checkConfigs(t *testing.T, r release, nodes int) {
	t.Helper()
	full := r.sets[0].Name
	if len(r.configs[0].Data) != nodes {
		t.Errorf("files %v for %d nodes", slices.Sorted(maps.Keys(r.configs[0].Data)), nodes)
	}
	bootstrap := !strings.Contains(r.notes, "cluster.bootstrap=false")
	for i := range nodes {
		toml := r.configs[0].Data[fmt.Sprintf("%s-%d.toml", full, i)]
		checkSettings(t, fmt.Sprintf("pod %d", i), strings.NewReplacer("/var/lib/bongsu", t.TempDir(), "/etc/bongsu/certs", certs).Replace(toml))
		if joins, want := strings.Contains(toml, "\njoin = "), nodes > 1 && (i > 0 || bootstrap); joins != want {
			t.Errorf("pod %d joins: %v, want %v\n%s", i, joins, want, toml)
		}
	}
}

// checkTogether: one pod may be missing, the job lets in all but the first, and
// each pod has its certificate.
func checkTogether(t *testing.T, r release, nodes int) {
	t.Helper()
	set := r.sets[0]
	if len(r.budgets) != 1 || r.budgets[0].Spec.MaxUnavailable.String() != "1" || !selects(r.budgets[0].Spec.Selector, set.Spec.Template.Labels) {
		t.Errorf("budgets %v", r.budgets)
	}
	if len(r.policies) != 1 || !selects(&r.policies[0].Spec.PodSelector, set.Spec.Template.Labels) || len(r.policies[0].Spec.Ingress) != 2 {
		t.Errorf("policies %v", r.policies)
	}
	if len(r.jobs) != 1 {
		t.Fatalf("%d jobs", len(r.jobs))
	}
	form := r.jobs[0].Spec.Template
	checkSecurity(t, form.Spec)
	if n := len(form.Spec.InitContainers); n != nodes-1 {
		t.Errorf("the job lets %d in", n)
	}
	if selects(set.Spec.Selector, form.Labels) {
		t.Error("the job's pod counts as a node")
	}
	if !selects(&r.policies[0].Spec.PodSelector, form.Labels) {
		t.Error("the job does not reach the nodes")
	}
	certs := 0
	for _, v := range set.Spec.Template.Spec.Volumes {
		if v.Name == "certs" {
			for _, s := range v.Projected.Sources {
				certs += len(s.Secret.Items)
			}
		}
	}
	if certs != 3*nodes {
		t.Errorf("%d files of certificates for %d nodes", certs, nodes)
	}
	for _, c := range r.certs {
		if !slices.Equal(c.Spec.URIs, []string{"bongsu://node/" + c.Name}) || !slices.Contains(c.Spec.Usages, "client auth") || c.Spec.RenewBefore.Duration*2 > c.Spec.Duration.Duration {
			t.Errorf("certificate %v", c.Spec)
		}
	}
}

// The first pod of a cluster that exists asks the others, too: without its
// volume it would begin an empty cluster.
func TestBootstrapIsForOnce(t *testing.T) {
	r := install(t, map[string]any{"cluster": map[string]any{"bootstrap": false}})
	if toml := r.configs[0].Data["bongsu-0.toml"]; !strings.Contains(toml, `join = ["bongsu-1.bongsu-peers.talk.svc:7400","bongsu-2.`) {
		t.Errorf("%s", toml)
	}
	if strings.Contains(r.notes, "bootstrap") {
		t.Error("the notes still ask for it")
	}
	if !equality.Semantic.DeepEqual(install(t, nil).sets[0].Spec.Template, r.sets[0].Spec.Template) {
		t.Error("turning bootstrap off restarts the nodes")
	}
}

// Values that make no sense are refused before anything is rendered.
func TestBadValues(t *testing.T) {
	for text, want := range map[string]string{
		"replicas: 2":                                 "replicas",
		"replicas: 10":                                "replicas",
		"image: {tag: latest}":                        "image",
		"replica: 3":                                  "replica",
		"cluster: {zoneFrom: rack}":                   "zoneFrom",
		"certs: {secret: \"\"}":                       "more than one node needs certificates",
		"certs: {certManager: {enabled: true}}":       "issuerRef",
		"persistence: {accessModes: [ReadWriteMany]}": "accessModes",
		"serve: {Data: x}":                            "Data",
		"service: {port: 0}":                          "port",
	} {
		values := map[string]any{}
		if err := yaml.Unmarshal([]byte(text), &values); err != nil {
			t.Fatal(err)
		}
		if _, err := render(values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
