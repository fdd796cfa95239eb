package link

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"time"
)

// Defaults of Config, and bounds of what it may hold.
const (
	ConnectionsMaxDefault = 8192
	MemoryMaxDefault      = 256 << 20
	TapMaxDefault         = 64 << 20

	configMaxBytes  = 1 << 20
	forwardsMax     = 512 // a gateway, a federation port and 254 endpoints each way
	controlMaxBytes = 103 // sun_path of the smallest system, less its final zero
	rttMax          = time.Minute
	lossMax         = 0.9
	bandwidthMin    = 8_000
	bandwidthMax    = 1_000_000_000_000
)

// Direction is one of a link's two, named by the clusters that it joins.
type Direction uint8

// The directions. As a connection's direction it is the one in which it was opened; bytes of one connection flow in both.
const (
	AtoB Direction = iota
	BtoA
)

// Reverse returns the other direction.
func (d Direction) Reverse() Direction { return d ^ 1 }

// String returns "a-to-b" or "b-to-a".
func (d Direction) String() string {
	if d == BtoA {
		return "b-to-a"
	}
	return "a-to-b"
}

// MarshalText is String.
func (d Direction) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText accepts what String returns.
func (d *Direction) UnmarshalText(text []byte) error {
	switch string(text) {
	case "a-to-b":
		*d = AtoB
	case "b-to-a":
		*d = BtoA
	default:
		return fmt.Errorf("direction %q: write a-to-b or b-to-a", text)
	}
	return nil
}

// Traffic is what a connection over a link is of.
type Traffic uint8

// The kinds of traffic: requests, and what control planes tell each other.
const (
	Data Traffic = iota
	Control
	traffics
)

// String returns "data" or "control".
func (t Traffic) String() string {
	if t == Control {
		return "control"
	}
	return "data"
}

// MarshalText is String.
func (t Traffic) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText accepts what String returns.
func (t *Traffic) UnmarshalText(text []byte) error {
	switch string(text) {
	case "data":
		*t = Data
	case "control":
		*t = Control
	default:
		return fmt.Errorf("traffic %q: write data or control", text)
	}
	return nil
}

// Shape is what a link does to bytes, the same in both directions. The zero value is a perfect link.
type Shape struct {
	RTT       time.Duration // there and back; each way takes half
	Jitter    time.Duration // by which a round trip may be shorter or longer; at most RTT
	Loss      float64       // probability that a segment is lost, 0 to 0.9
	Bandwidth int64         // bits per second in each direction; 0 is without limit
}

// Validate returns all faults of the shape, joined.
func (s Shape) Validate() error {
	var faults []error
	if s.RTT < 0 || s.RTT > rttMax {
		faults = append(faults, fmt.Errorf("rtt: %v is outside 0s to %v", s.RTT, rttMax))
	}
	if s.Jitter < 0 || s.Jitter > max(0, s.RTT) {
		faults = append(faults, fmt.Errorf("jitter: %v is outside 0s to the rtt, %v", s.Jitter, s.RTT))
	}
	if !(s.Loss >= 0 && s.Loss <= lossMax) { // negated, so that NaN is a fault
		faults = append(faults, fmt.Errorf("loss: %v is outside 0 to %v; to lose everything, cut the link", s.Loss, lossMax))
	}
	if s.Bandwidth != 0 && (s.Bandwidth < bandwidthMin || s.Bandwidth > bandwidthMax) {
		faults = append(faults, fmt.Errorf("bandwidth: %d bit/s is neither 0 (no limit) nor within %d to %d", s.Bandwidth, bandwidthMin, bandwidthMax))
	}
	return errors.Join(faults...)
}

// shapeJSON is Shape, and a change of one, as written: durations as text, absent fields unchanged.
type shapeJSON struct {
	RTT       *duration `json:"rtt,omitempty"`
	Jitter    *duration `json:"jitter,omitempty"`
	Loss      *float64  `json:"loss,omitempty"`
	Bandwidth *float64  `json:"bandwidth,omitempty"` // a float, so that 1e9 may be written
}

// duration is written as "80ms".
type duration time.Duration

func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = duration(v)
	return err
}

// apply returns the shape with the written fields changed.
func (j shapeJSON) apply(s Shape) (Shape, error) {
	if j.RTT != nil {
		s.RTT = time.Duration(*j.RTT)
	}
	if j.Jitter != nil {
		s.Jitter = time.Duration(*j.Jitter)
	}
	if j.Loss != nil {
		s.Loss = *j.Loss
	}
	if j.Bandwidth != nil {
		if b := *j.Bandwidth; b < 0 || b > bandwidthMax || b != math.Trunc(b) {
			return s, fmt.Errorf("bandwidth: %v is not a whole number of bit/s within 0 to %d", b, bandwidthMax)
		}
		s.Bandwidth = int64(*j.Bandwidth)
	}
	return s, nil
}

// written returns the shape with every field written.
func (s Shape) written() shapeJSON {
	rtt, jitter, bandwidth := duration(s.RTT), duration(s.Jitter), float64(s.Bandwidth)
	return shapeJSON{RTT: &rtt, Jitter: &jitter, Loss: &s.Loss, Bandwidth: &bandwidth}
}

// MarshalJSON writes durations as text: {"rtt":"80ms","jitter":"5ms","loss":0.01,"bandwidth":1000000000}.
func (s Shape) MarshalJSON() ([]byte, error) { return json.Marshal(s.written()) }

// UnmarshalJSON reads what MarshalJSON writes; unknown fields are a fault.
func (s *Shape) UnmarshalJSON(data []byte) error {
	var j shapeJSON
	err := decodeStrict(data, &j)
	if err != nil {
		return fmt.Errorf("shape: %w", err)
	}
	*s, err = j.apply(Shape{})
	return err
}

// Forward is one address of the far cluster made reachable in the near one.
type Forward struct {
	Name      string         `json:"name"`      // for people and counters: "gateway", "federation"
	Direction Direction      `json:"direction"` // in which connections are opened: Listen is in A for a-to-b, in B for b-to-a
	Listen    netip.AddrPort `json:"listen"`    // port 0 takes any free one, told by Stats
	Target    netip.AddrPort `json:"target"`
	Source    netip.Addr     `json:"source"`           // of the connection to Target
	Traffic   Traffic        `json:"traffic,omitzero"` // what its connections are of: data, unless said
}

// Config is a link. ReadConfig reads it; Validate must accept it before Run does.
type Config struct {
	A        string    `json:"a"` // name of the first cluster
	B        string    `json:"b"` // name of the second
	Forwards []Forward `json:"forwards"`
	Shape    Shape     `json:"shape"`
	Seed     uint64    `json:"seed"`              // of jitter and loss
	Control  string    `json:"control,omitempty"` // path of the Unix socket that Dial is given; none where empty

	// Tap names a file, truncated at start, that receives a copy of every delivered byte until it holds TapMax bytes
	// (64 MiB unless set); see SearchTap.
	Tap    string `json:"tap,omitempty"`
	TapMax int64  `json:"tapMax,omitempty"`

	// ConnectionsMax bounds the connections of the link (8192 unless set); one more is reset at once.
	ConnectionsMax int `json:"connectionsMax,omitempty"`
	// MemoryMax bounds, in bytes, what all connections together hold in flight (256 MiB unless set): above it each has
	// the smallest window, 64 KiB, so the true bound is MemoryMax + 128 KiB a connection.
	MemoryMax int64 `json:"memoryMax,omitempty"`
}

// ReadConfig reads a Config written in JSON, fills in the defaults and validates it.
func ReadConfig(r io.Reader) (Config, error) {
	data, err := io.ReadAll(io.LimitReader(r, configMaxBytes+1))
	if err != nil {
		return Config{}, fmt.Errorf("read link configuration: %w", err)
	}
	if len(data) > configMaxBytes {
		return Config{}, fmt.Errorf("read link configuration: longer than %d bytes", configMaxBytes)
	}
	var c Config
	if err := decodeStrict(data, &c); err != nil {
		return Config{}, fmt.Errorf("read link configuration: %w", err)
	}
	c = c.withDefaults()
	if err := c.Validate(); err != nil {
		return Config{}, fmt.Errorf("read link configuration: %w", err)
	}
	return c, nil
}

func (c Config) withDefaults() Config {
	if c.TapMax == 0 {
		c.TapMax = TapMaxDefault
	}
	if c.ConnectionsMax == 0 {
		c.ConnectionsMax = ConnectionsMaxDefault
	}
	if c.MemoryMax == 0 {
		c.MemoryMax = MemoryMaxDefault
	}
	return c
}

// Validate returns all faults of the configuration, joined, one a line. Every address must be a loopback one: a link
// forwards whatever it is sent and has no business on a network.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.A == "" || c.B == "" || c.A == c.B {
		fault("a, b: %q and %q are not the names of two clusters", c.A, c.B)
	}
	if len(c.Forwards) == 0 || len(c.Forwards) > forwardsMax {
		fault("forwards: %d of them; write 1 to %d", len(c.Forwards), forwardsMax)
	}
	listens := map[netip.AddrPort]int{}
	for i, f := range c.Forwards {
		if err := f.validate(); err != nil {
			fault("forwards[%d]: %w", i, err)
		}
		if first, taken := listens[f.Listen]; taken && f.Listen.Port() != 0 {
			fault("forwards[%d].listen: %v is that of forwards[%d]", i, f.Listen, first)
		}
		listens[f.Listen] = i
	}
	if err := c.Shape.Validate(); err != nil {
		fault("shape: %w", err)
	}
	if len(c.Control) > controlMaxBytes {
		fault("control: %d bytes long; a socket's path has at most %d", len(c.Control), controlMaxBytes)
	}
	if c.TapMax < 0 || c.ConnectionsMax < 0 || c.MemoryMax < 0 {
		fault("tapMax, connectionsMax, memoryMax: %d, %d, %d: none may be negative", c.TapMax, c.ConnectionsMax, c.MemoryMax)
	}
	return errors.Join(faults...)
}

func (f Forward) validate() error {
	var faults []error
	if f.Direction > BtoA {
		faults = append(faults, fmt.Errorf("direction: %d is neither of two", f.Direction))
	}
	if f.Traffic >= traffics {
		faults = append(faults, fmt.Errorf("traffic: %d is neither data nor control", f.Traffic))
	}
	for _, a := range []struct {
		field string
		addr  netip.Addr
	}{{"listen", f.Listen.Addr()}, {"target", f.Target.Addr()}, {"source", f.Source}} {
		if !a.addr.IsLoopback() {
			faults = append(faults, fmt.Errorf("%s: %v is not a loopback address", a.field, a.addr))
		}
	}
	if f.Target.Port() == 0 {
		faults = append(faults, errors.New("target: port 0 cannot be dialled"))
	}
	if f.Target.Addr().Is4() != f.Source.Is4() {
		faults = append(faults, fmt.Errorf("source: %v cannot reach %v", f.Source, f.Target.Addr()))
	}
	return errors.Join(faults...)
}
