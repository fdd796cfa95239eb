//house:exempt a table: the columns of each kind

package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/api/drains"
	"github.com/isthmus-mesh/isthmus/cli/drain"
	"github.com/isthmus-mesh/isthmus/cli/table"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// shown is an object as the API shows it, as far as tables look.
type shown struct {
	text       json.RawMessage
	APIVersion string
	Kind       string
	Metadata   struct {
		Name, Namespace, UID string
		CreationTimestamp    time.Time
		Generation           int64
		Labels, Annotations  map[string]string
	}
	Spec struct {
		// Service
		ClusterIP string
		Type      string
		Ports     []struct {
			Name     string
			Port     int
			Protocol string
		}
		Selector map[string]string
		// routes and policies
		Hostnames     []string
		Action        string
		Jurisdictions []string
		// Gateway
		GatewayClassName string
		Listeners        []struct {
			Name, Hostname, Protocol string
			Port                     int
		}
		// Cluster
		Region, Network, Jurisdiction string
		// Workload
		Address, ServiceAccount, Proxy string
		Unready                        bool
		Locality                       struct{ Zone string }
		// Cluster, for completion
		Zones, Gateways []string
		// Drain
		Goal, Since, Over, Reason string
	}
	Status struct {
		Origin     string
		Origins    []string // of a Service
		Parents    []api.Attachment
		Ancestors  []api.Attachment
		Clusters   []api.ServiceCluster
		Traffic    *api.TrafficInForce
		Policies   []string
		Conditions []api.Condition
		Reach, RTT string
		Addresses  []struct{ Value string } // of a Gateway
		Listeners  []struct{ AttachedRoutes int }
		Sync       *api.Peer
	}
}

// read takes from an object what it understands: a table shows what there is.
func read(text json.RawMessage) shown {
	s := shown{text: text}
	_ = json.Unmarshal(text, &s)
	return s
}

// column is one column of a kind's table.
type column struct {
	head string
	wide bool
	cell func(*app, shown) string
}

var objectAge = column{"AGE", false, func(a *app, s shown) string { return age(a.Now(), s.Metadata.CreationTimestamp) }}

// columnsOf are the columns of a kind after its name.
func columnsOf(kind string) []column {
	origin := column{"ORIGIN", true, func(_ *app, s shown) string { return s.Status.Origin }}
	condition := func(name string) column {
		return column{strings.ToUpper(strings.TrimSuffix(name, "Refs")), false, func(_ *app, s shown) string { return worst(s, name) }}
	}
	attached := []column{{"ATTACHED TO", false, func(_ *app, s shown) string { return attachments(s) }},
		condition("Accepted"), condition("ResolvedRefs"), condition("Programmed"), objectAge, origin}
	switch kind {
	case "Service":
		return []column{
			{"ADDRESS", false, func(_ *app, s shown) string { return s.Spec.ClusterIP }},
			{"PORTS", false, func(_ *app, s shown) string { return ports(s) }},
			{"ENDPOINTS", false, func(_ *app, s shown) string { return clusters(s) }},
			{"ORIGIN", false, func(_ *app, s shown) string { return strings.Join(s.Status.Origins, ",") }},
			objectAge,
			{"SELECTOR", true, func(_ *app, s shown) string { return pairs(s.Spec.Selector) }},
			{"POLICIES", true, func(_ *app, s shown) string { return strings.Join(s.Status.Policies, ", ") }},
		}
	case "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute", "TrafficPolicy", "FaultPolicy", "TelemetryPolicy":
		return attached
	case "AccessPolicy":
		return append([]column{{"ACTION", false, func(_ *app, s shown) string {
			if s.Spec.Action == "" {
				return "Allow"
			}
			return s.Spec.Action
		}}}, attached...)
	case "ResidencyPolicy":
		return append([]column{{"JURISDICTIONS", false, func(_ *app, s shown) string { return strings.Join(s.Spec.Jurisdictions, ",") }}}, attached...)
	case "Cluster":
		return []column{
			{"REGION", false, func(_ *app, s shown) string { return s.Spec.Region }},
			{"NETWORK", false, func(_ *app, s shown) string { return s.Spec.Network }},
			{"JURISDICTION", false, func(_ *app, s shown) string { return s.Spec.Jurisdiction }},
			{"REACH", false, func(_ *app, s shown) string { return s.Status.Reach }},
			{"RTT", false, func(_ *app, s shown) string { return s.Status.RTT }},
			{"IN SYNC", false, func(_ *app, s shown) string {
				if s.Status.Sync == nil {
					return ""
				}
				return yesNo(s.Status.Sync.InSync)
			}}, objectAge,
		}
	case "Gateway":
		return []column{
			{"CLASS", false, func(_ *app, s shown) string { return s.Spec.GatewayClassName }},
			{"ADDRESS", false, func(_ *app, s shown) string { return doors(s) }},
			{"ACCEPTED", false, func(_ *app, s shown) string { return stateOf(s.Status.Conditions, "Accepted") }},
			{"PROGRAMMED", false, func(_ *app, s shown) string { return stateOf(s.Status.Conditions, "Programmed") }},
			{"LISTENERS", true, func(_ *app, s shown) string { return listeners(s) }}, objectAge, origin,
		}
	case "Drain":
		return []column{
			{"TARGET", false, func(a *app, s shown) string { target, _, _ := drain.Of(s.text, a.Now()); return target }},
			{"GOAL", false, func(_ *app, s shown) string { return cmp.Or(s.Spec.Goal, string(mesh.GoalDrained)) }},
			{"SINCE", false, func(_ *app, s shown) string { return s.Spec.Since }},
			{"OVER", false, func(_ *app, s shown) string { return cmp.Or(s.Spec.Over, drains.DefaultOver.String()) }},
			{"SHARE", false, func(a *app, s shown) string { _, share, _ := drain.Of(s.text, a.Now()); return share }},
			{"REASON", true, func(_ *app, s shown) string { return s.Spec.Reason }}, origin,
		}
	case "Workload":
		return []column{
			{"ADDRESS", false, func(_ *app, s shown) string { return s.Spec.Address }},
			{"ACCOUNT", false, func(_ *app, s shown) string { return s.Spec.ServiceAccount }},
			{"ZONE", false, func(_ *app, s shown) string { return s.Spec.Locality.Zone }},
			{"READY", false, func(_ *app, s shown) string { return yesNo(!s.Spec.Unready) }}, objectAge,
			{"PROXY", true, func(_ *app, s shown) string { return s.Spec.Proxy }},
			{"LABELS", true, func(_ *app, s shown) string { return pairs(s.Metadata.Labels) }},
		}
	}
	return []column{objectAge, {"LABELS", true, func(_ *app, s shown) string { return pairs(s.Metadata.Labels) }}}
}

// doors are the addresses of a Gateway.
func doors(s shown) string {
	var out []string
	for _, a := range s.Status.Addresses {
		out = append(out, a.Value)
	}
	return strings.Join(out, ",")
}

// listeners are those of a Gateway with the routes attached to each.
func listeners(s shown) string {
	var out []string
	for i, l := range s.Spec.Listeners {
		text := fmt.Sprintf("%s %s/%d", l.Name, l.Protocol, l.Port)
		if l.Hostname != "" {
			text += " " + l.Hostname
		}
		if i < len(s.Status.Listeners) {
			text += fmt.Sprintf(" (%d routes)", s.Status.Listeners[i].AttachedRoutes)
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func stateOf(list []api.Condition, name string) string {
	for _, c := range list {
		if c.Type == name {
			return c.Status
		}
	}
	return ""
}

// worst is the state of a condition over all things that the object attaches to.
func worst(s shown, name string) string {
	out := ""
	for _, at := range slices.Concat(s.Status.Parents, s.Status.Ancestors) {
		for _, c := range at.Conditions {
			if c.Type == name && (out == "" || c.Status == "False" || c.Status == "Unknown" && out == "True") {
				out = c.Status
			}
		}
	}
	if out == "False" {
		return red + out
	}
	return out
}

func attachments(s shown) string {
	var out []string
	for _, at := range slices.Concat(s.Status.Parents, s.Status.Ancestors) {
		out = append(out, refText(at, s.Metadata.Namespace))
	}
	return strings.Join(out, ",")
}

func refText(at api.Attachment, home string) string {
	r := at.ParentRef
	if r == nil {
		r = at.AncestorRef
	}
	if r == nil {
		return ""
	}
	text := r.Kind
	if r.Name != "" {
		text += "/" + r.Name
	}
	if r.Namespace != "" && r.Namespace != home && r.Kind != "Namespace" {
		text += "." + r.Namespace
	}
	if r.Port != 0 {
		text += ":" + strconv.Itoa(int(r.Port))
	}
	return text
}

func ports(s shown) string {
	var out []string
	for _, p := range s.Spec.Ports {
		protocol := p.Protocol
		if protocol == "" {
			protocol = "TCP"
		}
		out = append(out, fmt.Sprintf("%d/%s", p.Port, protocol))
	}
	return strings.Join(out, ",")
}

// clusters is how many endpoints each cluster has; in brackets those that are not chosen
// from.
func clusters(s shown) string {
	var out []string
	for _, c := range s.Status.Clusters {
		text := fmt.Sprintf("%s:%d", c.Cluster, c.Endpoints)
		if c.Forbidden != "" || c.Reach != "" && c.Reach != "Alive" && c.Reach != "StaleServing" {
			text = "(" + text + ")"
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

func pairs(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+m[k])
	}
	return strings.Join(out, ",")
}

// tableOf lays out objects of one kind.
func (a *app) tableOf(all []found, s scope) *table.Table {
	kind := all[0].kind
	columns := slices.DeleteFunc(columnsOf(kind.Kind), func(c column) bool { return c.wide && a.output != "wide" })
	t := &table.Table{}
	if a.allClusters {
		t.Head = append(t.Head, "CLUSTER")
	}
	if s.all && kind.Namespaced {
		t.Head = append(t.Head, "NAMESPACE")
	}
	t.Head = append(t.Head, "NAME")
	for _, c := range columns {
		t.Head = append(t.Head, c.head)
	}
	for _, f := range all {
		o := read(f.text)
		var row []string
		if a.allClusters {
			row = append(row, f.cluster)
		}
		if s.all && kind.Namespaced {
			row = append(row, o.Metadata.Namespace)
		}
		row = append(row, o.Metadata.Name)
		for _, c := range columns {
			row = append(row, c.cell(a, o))
		}
		t.Add(row...)
	}
	return t
}

func (a *app) printKind(all []found, s scope) error {
	return a.tableOf(all, s).Print(a.Out, a.colour())
}

// describe shows one object whole.
func (a *app) describe(f found) error {
	o := read(f.text)
	var whole map[string]json.RawMessage
	if err := json.Unmarshal(f.text, &whole); err != nil {
		return fmt.Errorf("read an object of cluster %s: %w", f.cluster, err)
	}
	var b strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-12s %s\n", name+":", value)
		}
	}
	line("Name", o.Metadata.Name)
	line("Namespace", o.Metadata.Namespace)
	line("Kind", o.Kind+" ("+o.APIVersion+")")
	line("Cluster", f.cluster)
	line(origin(o, f.cluster))
	line("Labels", pairs(o.Metadata.Labels))
	line("Annotations", pairs(o.Metadata.Annotations))
	if !o.Metadata.CreationTimestamp.IsZero() {
		line("Created", fmt.Sprintf("%s (%s ago), generation %d", o.Metadata.CreationTimestamp.Format(time.RFC3339), age(a.Now(), o.Metadata.CreationTimestamp), o.Metadata.Generation))
	}
	for _, part := range []string{"spec", "data", "stringData", "endpoints", "ports", "clusters"} {
		if whole[part] == nil {
			continue
		}
		fmt.Fprintf(&b, "%s:\n", strings.ToUpper(part[:1])+part[1:])
		var text strings.Builder
		if err := printYAML(&text, whole[part]); err != nil {
			return err
		}
		for l := range strings.Lines(text.String()) {
			b.WriteString("  " + l)
		}
	}
	for _, at := range slices.Concat(o.Status.Parents, o.Status.Ancestors) {
		fmt.Fprintf(&b, "At %s:\n", refText(at, ""))
		describeConditions(&b, at.Conditions)
	}
	for _, c := range o.Status.Clusters {
		detail := ""
		if !c.Exported {
			detail += ", not exported"
		}
		if c.Reach != "" {
			detail += ", " + c.Reach
		}
		if c.Forbidden != "" {
			detail += ", forbidden by " + c.Forbidden
		}
		fmt.Fprintf(&b, "In %s: %d endpoints%s\n", c.Cluster, c.Endpoints, detail)
	}
	if t := o.Status.Traffic; t != nil {
		fmt.Fprintf(&b, "Requests: %s\n", t.Summary())
		for _, d := range t.Details {
			fmt.Fprintf(&b, "  %s\n", d)
		}
		for _, f := range t.Faults {
			fmt.Fprintf(&b, "  on purpose: %s\n", f)
		}
	}
	for _, p := range o.Status.Policies {
		fmt.Fprintf(&b, "Shaped by %s\n", p)
	}
	describeConditions(&b, o.Status.Conditions)
	_, err := io.WriteString(a.Out, b.String())
	return err
}

// origin says where an object is from, if it is from elsewhere.
func origin(o shown, cluster string) (name, value string) {
	switch {
	case len(o.Status.Origins) > 0 && !slices.Contains(o.Status.Origins, cluster):
		return "Imported", "from " + strings.Join(o.Status.Origins, ", ")
	case o.Status.Origin != cluster:
		return "Origin", o.Status.Origin
	}
	return "", ""
}

func describeConditions(b *strings.Builder, list []api.Condition) {
	for _, c := range list {
		fmt.Fprintf(b, "  %-13s %-8s %s", c.Type, c.Status, c.Reason)
		if c.Message != "" {
			fmt.Fprintf(b, ": %s", c.Message)
		}
		b.WriteByte('\n')
	}
}
