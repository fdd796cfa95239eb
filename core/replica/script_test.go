package replica_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
)

var update = flag.Bool("update", false, "rewrite the expected output of the scripts")

// TestScripts plays testdata/*.txt: blocks of commands, a line "----", what they print,
// an empty line. See script.do for the commands.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("glob testdata: %v, %d files", err, len(files))
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			raw, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(raw))
			if *update {
				if err := os.WriteFile(f, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(string(raw), got); d != "" {
				t.Errorf("%s (-want +got; -update rewrites):\n%s", f, d)
			}
		})
	}
}

func play(t *testing.T, text string) string {
	s := &script{t: t, now: time.UnixMilli(1_000_000), part: replica.NewPartition("us-east")}
	var out strings.Builder
	for block := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n\n") {
		commands, _, found := strings.Cut(block, "\n----")
		out.WriteString(commands)
		if !found {
			out.WriteString("\n\n")
			continue
		}
		out.WriteString("\n----\n")
		s.out.Reset()
		for line := range strings.SplitSeq(commands, "\n") {
			if !strings.HasPrefix(line, "#") {
				s.do(strings.Fields(line))
			}
		}
		out.WriteString(s.out.String())
		out.WriteString("\n")
	}
	return strings.TrimRight(out.String(), "\n") + "\n"
}

// script is an importer and an exporter with two queues between them.
type script struct {
	t       *testing.T
	now     time.Time
	part    *replica.Partition
	im      *replica.Importer
	cfg     replica.ImporterConfig
	saved   *replica.Saved
	ex      *replica.Exporter
	session uint64
	server  mesh.ClusterName
	down    []replica.Down
	up      []replica.Up
	out     strings.Builder
}

func (s *script) do(args []string) {
	opt := map[string]string{}
	for _, a := range args[1:] {
		if k, v, ok := strings.Cut(a, "="); ok {
			opt[k] = v
		}
	}
	switch args[0] {
	case "importer": // importer [limit=N]: a fresh importer of us-east, held by eu-west
		s.cfg = replica.ImporterConfig{Owner: "us-east", TrustDomain: "us-east.isthmus.local", Holders: []mesh.ClusterName{"eu-west"}}
		if n, ok := opt["limit"]; ok {
			s.cfg.Limits.Resources, _ = strconv.Atoi(n)
		}
		s.im = replica.NewImporter(s.cfg, nil)
	case "restart": // restart: the importer's process, from its disk
		s.im = replica.NewImporter(s.cfg, s.saved)
	case "connect": // connect SERVER [owner=X] [td=X] [bytes=N]: a new stream to a replica with the published partition
		s.connect(mesh.ClusterName(args[1]), opt)
	case "disconnect":
		s.ready(s.im.Disconnect(s.now, s.session))
		s.down, s.up = nil, nil
	case "publish": // publish EPOCH:REV [lineage=E:R] [+NAME[=BODY][@STAMP]] [-NAME] [~NAME@STAMP]
		s.publish(args[1:], opt)
	case "reset": // reset: the owner's store is empty
		s.part = replica.NewPartition("us-east")
	case "run": // run: deliver until both queues are empty
		for len(s.down)+len(s.up) > 0 {
			s.deliver()
		}
	case "drop-down":
		fmt.Fprintf(&s.out, "dropped %s\n", showDown(s.down[0]))
		s.down = s.down[1:]
	case "drop-up":
		fmt.Fprintf(&s.out, "dropped %s\n", showUp(s.up[0]))
		s.up = s.up[1:]
	case "deliver":
		s.deliver()
	case "tick": // tick DURATION: time passes for both; messages are queued
		d, err := time.ParseDuration(args[1])
		if err != nil {
			s.t.Fatal(err)
		}
		s.now = s.now.Add(d)
		if s.ex != nil && len(args) == 2 {
			s.down = append(s.down, s.ex.Tick(s.now).Send...)
		}
		s.ready(s.im.Tick(s.now))
	case "state":
		s.state()
	default:
		s.t.Fatalf("unknown command %q", args[0])
	}
}

func (s *script) connect(server mesh.ClusterName, opt map[string]string) {
	s.session++
	s.server = server
	cfg := replica.ExporterConfig{Server: server, Owner: "us-east", TrustDomain: "us-east.isthmus.local"}
	if o, ok := opt["owner"]; ok {
		cfg.Owner = mesh.ClusterName(o)
	}
	if o, ok := opt["says"]; ok {
		cfg.Server = mesh.ClusterName(o)
	}
	if td, ok := opt["td"]; ok {
		cfg.TrustDomain = mesh.TrustDomain(td)
	}
	cfg.ResponseBytes, _ = strconv.Atoi(opt["bytes"])
	s.ex = replica.NewExporter(cfg, s.part)
	s.down, s.up = nil, nil
	s.ready(s.im.Connect(s.now, s.session, server))
	s.down = append(s.down, s.ex.Open(s.now).Send...)
}

func (s *script) publish(args []string, opt map[string]string) {
	pos := parsePosition(s.t, args[0])
	lineage := s.part.Lineage
	if l, ok := opt["lineage"]; ok {
		p := parsePosition(s.t, l)
		lineage = lineage.Union(replica.Lineage{p.Epoch: p.Revision})
	}
	var set []*replica.Resource
	var removed []replica.Name
	for _, a := range args[1:] {
		stamp := mesh.Stamp{WallMillis: pos.Revision, Origin: "us-east"}
		a, at, stamped := strings.Cut(a, "@")
		if stamped {
			ms, origin, _ := strings.Cut(at, "/")
			stamp.WallMillis, _ = strconv.ParseInt(ms, 10, 64)
			if origin != "" {
				stamp.Origin = mesh.ClusterName(origin)
			}
		}
		switch name, body, _ := strings.Cut(a[1:], "="); a[0] {
		case '+':
			set = append(set, replica.NewResource(parseName(name), pos, stamp, [16]byte{}, []byte(body)))
		case '-':
			removed = append(removed, parseName(name))
		case '~':
			set = append(set, replica.NewGone(parseName(name), pos, stamp))
		}
	}
	s.part = s.part.With(set, removed).At(pos, lineage)
	if s.ex != nil {
		s.down = append(s.down, s.ex.Publish(s.part).Send...)
	}
}

func (s *script) deliver() {
	if len(s.down) > 0 {
		m := s.down[0]
		s.down = s.down[1:]
		fmt.Fprintf(&s.out, "> %s\n", showDown(m))
		s.ready(s.im.Step(s.now, s.session, m))
		return
	}
	m := s.up[0]
	s.up = s.up[1:]
	fmt.Fprintf(&s.out, "< %s\n", showUp(m))
	o := s.ex.Step(m)
	s.down = append(s.down, o.Send...)
	for _, a := range o.Alarms {
		fmt.Fprintf(&s.out, "  exporter alarm %s\n", a)
	}
	if o.Ahead != nil {
		fmt.Fprintf(&s.out, "  peer is ahead: %s\n", showPosition(*o.Ahead))
	}
	if o.Witness != nil {
		fmt.Fprintf(&s.out, "  witness whole: crossed %s, %d orphans\n", showLineage(o.Witness.Crossed), len(o.Witness.Orphans))
	}
	if o.Close != "" {
		fmt.Fprintf(&s.out, "  exporter closes: %s\n", o.Close)
	}
}

func (s *script) ready(rd replica.Ready) {
	for _, a := range rd.Alarms {
		fmt.Fprintf(&s.out, "  alarm %s\n", a)
	}
	if e := rd.Edit; e != nil {
		fmt.Fprintf(&s.out, "  edit to %s:", showPosition(e.InForce.Position))
		for _, r := range e.Set {
			fmt.Fprintf(&s.out, " +%s", r.Name)
		}
		for _, n := range e.Removed {
			fmt.Fprintf(&s.out, " -%s", n)
		}
		s.out.WriteString("\n")
	}
	if rd.Save != nil {
		s.saved = rd.Save
	}
	if rd.Redial != "" {
		fmt.Fprintf(&s.out, "  redial: %s\n", rd.Redial)
	}
	s.up = append(s.up, rd.Send...)
}

func (s *script) state() {
	st := s.im.Status()
	fmt.Fprintf(&s.out, "at %s in-sync=%t stale=%t held-over=%d refused=%d\n", showPosition(st.Position), st.InSync, st.Stale, st.HeldOver, st.Refused)
	rs := slices.SortedFunc(s.im.InForce().All(), func(a, b *replica.Resource) int { return a.Name.Compare(b.Name) })
	for _, r := range rs {
		fmt.Fprintf(&s.out, "%s=%s\n", r.Name, r.Body)
	}
}

func parsePosition(t *testing.T, s string) mesh.Position {
	e, r, _ := strings.Cut(s, ":")
	ms, err := strconv.ParseInt(e, 10, 64)
	rev, err2 := strconv.ParseInt(r, 10, 64)
	if err != nil || err2 != nil {
		t.Fatalf("position %q: want EPOCH:REVISION", s)
	}
	return mesh.Position{Epoch: mesh.Epoch{StartMillis: ms, ID: "e"}, Revision: rev}
}

// parseName reads "deny" style short names: KIND/NAME in namespace shop.
func parseName(s string) replica.Name {
	k, n, _ := strings.Cut(s, "/")
	return replica.Name{Kind: mesh.Kind(k), Namespace: "shop", Name: n}
}

func showPosition(p mesh.Position) string {
	return fmt.Sprintf("%d:%d", p.Epoch.StartMillis, p.Revision)
}

func showLineage(l replica.Lineage) string {
	var parts []string
	for e, r := range maps.All(l) {
		parts = append(parts, showPosition(mesh.Position{Epoch: e, Revision: r}))
	}
	slices.Sort(parts)
	return "[" + strings.Join(parts, " ") + "]"
}

func showDown(m replica.Down) string {
	switch m := m.(type) {
	case *replica.Hello:
		return fmt.Sprintf("%d hello %s for %s at %s", m.Seq, m.Server, m.Owner, showPosition(m.Position))
	case *replica.Enumerate:
		return fmt.Sprintf("%d enumerate %d buckets", m.Seq, len(m.Buckets))
	case *replica.Heartbeat:
		return fmt.Sprintf("%d heartbeat at %s settled=%t awaiting=%d", m.Seq, showPosition(m.Position), m.Settled, m.Awaiting)
	case *replica.Response:
		var b strings.Builder
		fmt.Fprintf(&b, "%d response %d to %s:", m.Seq, m.Nonce, showPosition(m.Position))
		for _, r := range m.Set {
			fmt.Fprintf(&b, " +%s", r.Name)
		}
		for _, n := range m.Removed {
			fmt.Fprintf(&b, " -%s", n)
		}
		if m.Last {
			b.WriteString(" last")
		}
		return b.String()
	}
	return fmt.Sprintf("%T", m)
}

func showUp(m replica.Up) string {
	switch m := m.(type) {
	case *replica.Subscribe:
		return fmt.Sprintf("subscribe %d known %s", m.Sync, showPosition(m.Known))
	case *replica.Versions:
		return fmt.Sprintf("versions of %d buckets: %d names", len(m.Buckets), len(m.Held))
	case *replica.Ack:
		s := fmt.Sprintf("ack %d", m.Nonce)
		if m.Error != "" {
			s += " refused: " + m.Error
		}
		for _, r := range m.Refused {
			s += fmt.Sprintf(" (%s: %s)", r.Name, r.Reason)
		}
		return s
	case *replica.Witness:
		return fmt.Sprintf("witness part %d of %d: crossed %s, %d orphans", m.Part+1, m.Parts, showLineage(m.Crossed), len(m.Orphans))
	}
	return fmt.Sprintf("%T", m)
}
