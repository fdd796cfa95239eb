//house:exempt the shape of a scenario and its parser

package manifest

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Simulation is a scenario of isthmus simulate: a world of one service, what is asked of it, what
// goes wrong, and whose policies are compared. Defaults are filled in.
type Simulation struct {
	Name, Description string
	// Duration of a run; requests that arrive from From until To are measured.
	Duration, From, To time.Duration
	Regions            []SimRegion
	Links              []SimLink
	// Generate, where not nil, makes Regions and Links.
	Generate *SimGenerate
	// Calls are the services below the one that users call, each after the one that calls it.
	Calls  []SimCall
	Demand []SimDemand
	Faults []SimFault
	// Residency says to which regions requests of one may go; a region that is not named may use all.
	Residency map[string][]string
	Requests  SimRequests
	Strategy  mesh.Strategy
	// Beta is what a unit of price is worth, in seconds of waiting.
	Beta     float64
	Weights  []float64 // by region
	Policies []string
	Seeds    int
}

// SimRegion is a cluster with endpoints of the service and proxies that call it.
type SimRegion struct {
	Name             string
	Endpoints, Lanes int
	Service          time.Duration // of one request in a lane, on average
	// Variation is the coefficient of variation of the work of requests.
	Variation float64
	Rate      float64 // requests a second
	Proxies   int
}

// SimCall is a service that another one calls for each of its requests.
type SimCall struct {
	Name string
	// By is who calls it, an index of Calls; -1 is the service that users call.
	By int
	// Times it is called for one request, one after another.
	Times int
	// Regions are those of the scenario, in their order, with what the service has there.
	Regions []SimRegion
}

// SimLink is the way between two regions, the same both ways.
type SimLink struct {
	Between [2]string
	RTT     time.Duration
	Price   float64 // of a request that crosses, in any unit
	Loss    float64 // of messages, each of which costs a retransmission
}

// SimGenerate makes regions around five continental centres.
type SimGenerate struct {
	Regions, Endpoints, Lanes, Proxies int
	Service                            time.Duration
	Load                               float64 // of all capacity
	Seed                               int
}

// SimDemand changes a region's rate for a while, or all regions' ("*").
type SimDemand struct {
	Region   string
	From, To time.Duration
	Rate     float64 // 0: by Factor
	Factor   float64
	// Wave and Swing make it a day: rate × (1 + Swing·sin), each region shifted by its part of the wave.
	Wave  time.Duration
	Swing float64
}

// The kinds of faults.
const (
	FaultSlow      = "slow"
	FaultRefuse    = "refuse"
	FaultBlackHole = "blackhole"
	FaultCut       = "cut"
	FaultLoss      = "loss"
	FaultDelay     = "delay"
)

// SimFault is what goes wrong from From until To.
type SimFault struct {
	Kind     string
	Region   string
	Service  string    // "" is every service of the region
	Between  [2]string // of cut, loss and delay
	OneWay   bool      // of cut: from the first to the second only
	From, To time.Duration
	// Endpoints is how many of the region's are struck, from the first on; 0 is all. Over spreads their
	// beginnings over a time; Every makes them come and go.
	Endpoints   int
	Over, Every time.Duration
	Factor      float64       // of slow: service times are multiplied
	Loss        float64       // of loss
	Delay       time.Duration // of delay, added to the RTT
}

// SimRequests is how requests are made.
type SimRequests struct {
	Try, Deadline          time.Duration
	Retries, Budget, Burst int
	// Shed is the wait beyond which an endpoint declines.
	Shed time.Duration
	// Critical is the part of requests that is critical, and admitted first.
	Critical float64
}

// simulation is the shape of a scenario's file.
type simulation struct {
	header      `json:",inline"`
	Description string       `json:"description" is:"len=1..2000"`
	Duration    string       `json:"duration" is:"required duration"`
	Window      *simWindow   `json:"window"`
	Generate    *simGenerate `json:"generate"`
	Regions     []simRegion  `json:"regions" is:"items=1..64 unique=name"`
	Links       []simLink    `json:"links" is:"items=0..2016"`
	Calls       []simCall    `json:"calls" is:"items=0..8 unique=name"`
	Demand      []simDemand  `json:"demand" is:"items=0..1000"`
	Faults      []simFault   `json:"faults" is:"items=0..1000"`
	Residency   []struct {
		Region string   `json:"region" is:"required label"`
		Only   []string `json:"only" is:"required items=1..64 label unique=."`
	} `json:"residency" is:"items=0..64 unique=region"`
	Requests simRequests `json:"requests"`
	Strategy string      `json:"strategy" is:"enum=Auto|Latency|Cost|Nearest|Local|Weighted|Spread"`
	Beta     decimal     `json:"beta"`
	Weights  []simWeight `json:"weights" is:"items=0..64 unique=region"`
	Policies []string    `json:"policies" is:"items=1..16 unique=. enum=isthmus|round-robin|local|istio|l3|p2c|waterfall|waterfall-0.6|waterfall-0.95|oracle-fluid|oracle-queue"`
	Seeds    *int        `json:"seeds" is:"1..1000"`
}

type simWindow struct {
	From string `json:"from" is:"required duration"`
	To   string `json:"to" is:"required duration"`
}

type simGenerate struct {
	Regions   int     `json:"regions" is:"required 2..64"`
	Endpoints int     `json:"endpoints" is:"required 1..1000"`
	Lanes     *int    `json:"lanes" is:"1..1000"`
	Proxies   *int    `json:"proxies" is:"1..100"`
	Service   string  `json:"service" is:"duration"`
	Load      decimal `json:"load"`
	Seed      *int    `json:"seed" is:"0..1000000"`
}

type simRegion struct {
	Name      string   `json:"name" is:"required label"`
	Endpoints *int     `json:"endpoints" is:"0..1000"`
	Lanes     *int     `json:"lanes" is:"1..1000"`
	Service   string   `json:"service" is:"duration"`
	Variation *decimal `json:"variation"`
	Rate      decimal  `json:"rate"`
	Proxies   *int     `json:"proxies" is:"1..100"`
}

type simCall struct {
	Name      string      `json:"name" is:"required label"`
	By        string      `json:"by" is:"label"`
	Times     *int        `json:"times" is:"1..20"`
	Endpoints *int        `json:"endpoints" is:"0..1000"`
	Lanes     *int        `json:"lanes" is:"1..1000"`
	Service   string      `json:"service" is:"duration"`
	Variation *decimal    `json:"variation"`
	Proxies   *int        `json:"proxies" is:"1..100"`
	Regions   []simRegion `json:"regions" is:"items=0..64 unique=name"`
}

type simLink struct {
	Between []string `json:"between" is:"required items=2..2 unique=."`
	RTT     string   `json:"rtt" is:"required duration"`
	Price   decimal  `json:"price"`
	Loss    percent  `json:"loss"`
}

type simDemand struct {
	Region string   `json:"region" is:"required len=1..63"`
	From   string   `json:"from" is:"duration"`
	To     string   `json:"to" is:"duration"`
	Rate   *decimal `json:"rate"`
	Factor *decimal `json:"factor"`
	Wave   string   `json:"wave" is:"duration"`
	Swing  decimal  `json:"swing"`
}

type simFault struct {
	Kind      string   `json:"kind" is:"required enum=slow|refuse|blackhole|cut|loss|delay"`
	Region    string   `json:"region" is:"label"`
	Service   string   `json:"service" is:"label"`
	Between   []string `json:"between" is:"items=2..2 unique=."`
	OneWay    bool     `json:"oneWay"`
	From      string   `json:"from" is:"required duration"`
	To        string   `json:"to" is:"duration"`
	Endpoints *int     `json:"endpoints" is:"1..1000"`
	Over      string   `json:"over" is:"duration"`
	Every     string   `json:"every" is:"duration"`
	Factor    decimal  `json:"factor"`
	Loss      percent  `json:"loss"`
	Delay     string   `json:"delay" is:"duration"`
}

type simRequests struct {
	Try      string  `json:"try" is:"duration"`
	Deadline string  `json:"deadline" is:"duration"`
	Retries  *int    `json:"retries" is:"0..5"`
	Budget   *int    `json:"budgetPercent" is:"0..100"`
	Burst    *int    `json:"budgetBurst" is:"0..10000"`
	Shed     string  `json:"shed" is:"duration"`
	Critical percent `json:"critical"`
}

type simWeight struct {
	Region string  `json:"region" is:"required label"`
	Weight decimal `json:"weight"`
}

func durationOr(s string, otherwise time.Duration) time.Duration {
	if s == "" {
		return otherwise
	}
	return duration(s)
}

func numberOr(n *int, otherwise int) int {
	if n == nil {
		return otherwise
	}
	return *n
}

func (s *scope) simulation(in *simulation) *Simulation {
	out := &Simulation{Name: s.name, Description: in.Description, Duration: duration(in.Duration), Strategy: mesh.Strategy(cmp.Or(in.Strategy, string(mesh.StrategyAuto))),
		Beta: float64(in.Beta), Policies: in.Policies, Seeds: numberOr(in.Seeds, 5), Residency: map[string][]string{},
		Requests: SimRequests{Try: durationOr(in.Requests.Try, 500*time.Millisecond), Deadline: durationOr(in.Requests.Deadline, time.Second),
			Retries: numberOr(in.Requests.Retries, 1), Budget: numberOr(in.Requests.Budget, 20), Burst: numberOr(in.Requests.Burst, 100),
			Shed: durationOr(in.Requests.Shed, 150*time.Millisecond), Critical: float64(in.Requests.Critical)}}
	out.To = out.Duration
	if in.Window != nil {
		out.From, out.To = duration(in.Window.From), duration(in.Window.To)
	}
	root := (*path)(nil)
	switch {
	case in.Duration != "" && (out.Duration < time.Second || out.Duration > 24*time.Hour):
		s.fault(root.field("duration"), quote(in.Duration)+" is out of range", "write 1s to 24h")
	case out.To > out.Duration:
		s.fault(root.field("window").field("to"), "the window ends after the run", "write at most "+in.Duration)
	case out.From >= out.To:
		s.fault(root.field("window").field("from"), "the window is empty", "write less than its end")
	}
	if len(in.Policies) == 0 {
		out.Policies = []string{"isthmus", "oracle-queue"}
	}
	if (in.Generate == nil) == (len(in.Regions) == 0) {
		s.fault(root.field("regions"), "want either regions or generate", "write one of the two")
	}
	s.simRegions(in, out)
	s.simCalls(in, out)
	s.simDemand(in, out)
	s.simFaults(in, out)
	return out
}

func (s *scope) simRegions(in *simulation, out *Simulation) {
	root := (*path)(nil)
	if g := in.Generate; g != nil {
		out.Generate = &SimGenerate{Regions: g.Regions, Endpoints: g.Endpoints, Lanes: numberOr(g.Lanes, 4), Proxies: numberOr(g.Proxies, 1),
			Service: durationOr(g.Service, 20*time.Millisecond), Load: cmp.Or(float64(g.Load), 0.65), Seed: numberOr(g.Seed, 1)}
		if out.Generate.Load > 2 {
			s.fault(root.field("generate").field("load"), "is out of range", "write a part of the capacity, such as 0.65")
		}
		out.Generate.fill(out)
	}
	for _, r := range in.Regions {
		out.Regions = append(out.Regions, r.over(SimRegion{Endpoints: 10, Lanes: 4, Service: 20 * time.Millisecond, Variation: 1, Proxies: 4}))
	}
	names := out.regionNames()
	seen := map[[2]string]int{}
	for i, l := range in.Links {
		at := root.field("links").item(i)
		if len(l.Between) != 2 {
			continue
		}
		for j, name := range l.Between {
			s.clusterAt(name, names, at.field("between").item(j))
		}
		pair := [2]string{min(l.Between[0], l.Between[1]), max(l.Between[0], l.Between[1])}
		if _, twice := seen[pair]; twice {
			s.fault(at, "a second link of these regions", "remove one of the two")
		}
		seen[pair] = i
		out.Links = append(out.Links, SimLink{Between: [2]string(l.Between), RTT: duration(l.RTT), Price: float64(l.Price), Loss: float64(l.Loss)})
	}
	if in.Generate == nil && len(names) > 1 && s.faults == 0 {
		for i, a := range names {
			for _, b := range names[i+1:] {
				if _, ok := seen[[2]string{min(a, b), max(a, b)}]; !ok {
					s.fault(root.field("links"), "there is no link between "+a+" and "+b, "write one with its rtt")
				}
			}
		}
	}
	for i, r := range in.Residency {
		at := root.field("residency").item(i)
		s.clusterAt(r.Region, names, at.field("region"))
		for j, only := range r.Only {
			s.clusterAt(only, names, at.field("only").item(j))
		}
		out.Residency[r.Region] = r.Only
	}
	if len(in.Weights) > 0 {
		out.Weights = make([]float64, len(names))
	}
	for i, w := range in.Weights {
		s.clusterAt(w.Region, names, root.field("weights").item(i).field("region"))
		if k := slices.Index(names, w.Region); k >= 0 {
			out.Weights[k] = float64(w.Weight)
		}
	}
}

// over is a region of a file over what is taken where it says nothing.
func (r *simRegion) over(d SimRegion) SimRegion {
	if r.Variation != nil {
		d.Variation = float64(*r.Variation)
	}
	return SimRegion{Name: r.Name, Endpoints: numberOr(r.Endpoints, d.Endpoints), Lanes: numberOr(r.Lanes, d.Lanes), Service: durationOr(r.Service, d.Service),
		Variation: d.Variation, Rate: float64(r.Rate), Proxies: numberOr(r.Proxies, d.Proxies)}
}

func (s *scope) simCalls(in *simulation, out *Simulation) {
	names := out.regionNames()
	for i, c := range in.Calls {
		at := (*path)(nil).field("calls").item(i)
		one := SimCall{Name: c.Name, By: i - 1, Times: numberOr(c.Times, 1)}
		if c.By != "" {
			if one.By = slices.IndexFunc(out.Calls, func(o SimCall) bool { return o.Name == c.By }); one.By < 0 {
				s.fault(at.field("by"), quote(c.By)+" is not called before", "write the name of one that stands above, or nothing for the one right above")
			}
		}
		all := simRegion{Endpoints: c.Endpoints, Lanes: c.Lanes, Service: c.Service, Variation: c.Variation, Proxies: c.Proxies}
		usual := all.over(SimRegion{Endpoints: 10, Lanes: 4, Service: 20 * time.Millisecond, Variation: 1, Proxies: 4})
		for _, name := range names {
			of := simRegion{Name: name}
			if k := slices.IndexFunc(c.Regions, func(r simRegion) bool { return r.Name == name }); k >= 0 {
				of = c.Regions[k]
			}
			one.Regions = append(one.Regions, of.over(usual))
		}
		for k, r := range c.Regions {
			s.clusterAt(r.Name, names, at.field("regions").item(k).field("name"))
			if r.Rate != 0 {
				s.fault(at.field("regions").item(k).field("rate"), "users do not ask for "+c.Name, "remove it: the service above does")
			}
		}
		out.Calls = append(out.Calls, one)
	}
}

func (m *Simulation) regionNames() []string {
	var names []string
	for _, r := range m.Regions {
		names = append(names, r.Name)
	}
	return names
}

func (s *scope) simDemand(in *simulation, out *Simulation) {
	names := out.regionNames()
	for i, d := range in.Demand {
		at := (*path)(nil).field("demand").item(i)
		if d.Region != "*" {
			s.clusterAt(d.Region, names, at.field("region"))
		}
		one := SimDemand{Region: d.Region, From: duration(d.From), To: durationOr(d.To, out.Duration), Factor: 1, Wave: duration(d.Wave), Swing: float64(d.Swing)}
		if d.Rate != nil {
			one.Rate = float64(*d.Rate)
		}
		if d.Factor != nil {
			one.Factor = float64(*d.Factor)
		}
		if d.Rate != nil && d.Factor != nil {
			s.fault(at.field("factor"), "rate and factor exclude each other", "remove one of the two")
		}
		if one.Swing > 1 {
			s.fault(at.field("swing"), "is out of range", "write a part of the rate, 0 to 1")
		}
		out.Demand = append(out.Demand, one)
	}
}

func (s *scope) simFaults(in *simulation, out *Simulation) {
	names := out.regionNames()
	for i, f := range in.Faults {
		at := (*path)(nil).field("faults").item(i)
		one := SimFault{Kind: f.Kind, Region: f.Region, Service: f.Service, OneWay: f.OneWay, From: duration(f.From), To: durationOr(f.To, out.Duration), Endpoints: numberOr(f.Endpoints, 0),
			Over: duration(f.Over), Every: duration(f.Every), Factor: float64(f.Factor), Loss: float64(f.Loss), Delay: duration(f.Delay)}
		link := f.Kind == FaultCut || f.Kind == FaultLoss || f.Kind == FaultDelay
		switch {
		case link && len(f.Between) != 2:
			s.fault(at.field("between"), "missing", "write the two regions")
		case link:
			one.Between = [2]string(f.Between)
			for j, name := range f.Between {
				s.clusterAt(name, names, at.field("between").item(j))
			}
		case f.Region == "":
			s.fault(at.field("region"), "missing", "write the region")
		default:
			s.clusterAt(f.Region, names, at.field("region"))
		}
		if f.Service != "" && !slices.ContainsFunc(out.Calls, func(c SimCall) bool { return c.Name == f.Service }) {
			s.fault(at.field("service"), quote(f.Service)+" is not called", "write the name of one of calls, or nothing for all of the region")
		}
		if f.Kind == FaultSlow && one.Factor <= 0 {
			s.fault(at.field("factor"), "missing", "write by how much service times grow, such as 2.5")
		}
		if one.To <= one.From && f.To != "" {
			s.fault(at.field("to"), "the fault ends before it begins", "write a later time")
		}
		out.Faults = append(out.Faults, one)
	}
}

// fill makes regions around five continental centres, on a map in thousands of kilometres: the same for a
// seed everywhere. RTT is 1 + 1.56 ms a hundred kilometres, times 0.9 to 1.3; demand is log-normal.
func (g *SimGenerate) fill(out *Simulation) {
	next := uint64(g.Seed)*0x9e3779b97f4a7c15 + 1
	uniform := func() float64 { // SplitMix64
		next += 0x9e3779b97f4a7c15
		x := next
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		return (float64((x^x>>31)>>11) + 0.5) / (1 << 53)
	}
	normal := func() float64 { return math.Sqrt(-2*math.Log(uniform())) * math.Cos(2*math.Pi*uniform()) }
	centres := [5][2]float64{{0, 0}, {7, 1}, {12, -3}, {16, 2}, {3, -7}}
	at := make([][2]float64, g.Regions)
	demand, sum := make([]float64, g.Regions), 0.0
	for i := range at {
		c := centres[i%5]
		at[i] = [2]float64{c[0] + normal(), c[1] + normal()}
		demand[i] = math.Exp(0.5 * normal())
		sum += demand[i]
	}
	capacity := float64(g.Endpoints*g.Lanes) / g.Service.Seconds()
	for i := range at {
		name := "r" + string(rune('0'+i/10)) + string(rune('0'+i%10))
		out.Regions = append(out.Regions, SimRegion{Name: name, Endpoints: g.Endpoints, Lanes: g.Lanes, Service: g.Service, Variation: 1,
			Rate: demand[i] / sum * g.Load * capacity * float64(g.Regions), Proxies: g.Proxies})
	}
	for i := range at {
		for j := i + 1; j < len(at); j++ {
			km := 1000 * math.Hypot(at[i][0]-at[j][0], at[i][1]-at[j][1])
			ms := 1 + 1.56*km/100*(0.9+0.4*uniform())
			out.Links = append(out.Links, SimLink{Between: [2]string{out.Regions[i].Name, out.Regions[j].Name}, RTT: time.Duration(ms * float64(time.Millisecond))})
		}
	}
}
