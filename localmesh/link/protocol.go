package link

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// lineMaxBytes bounds a request; an answer, Stats of the most forwards there may be, is below answerMaxBytes.
const (
	lineMaxBytes   = 4 << 10
	answerMaxBytes = 1 << 20
)

// request is one line to the control socket.
//
//	{"op":"shape","rtt":"80ms","jitter":"5ms","loss":0.01,"bandwidth":1e9}   what is absent stays; "slow" is the same
//	{"op":"cut","direction":"both"}        or "a-to-b", "b-to-a"; absent is both
//	{"op":"cut","traffic":"control"}       or "data", also of stall and heal; absent is both
//	{"op":"stall","direction":"both"}      "pause" is the same
//	{"op":"refuse"}
//	{"op":"heal","direction":"both"}       ends cut, stall and, of both directions and all traffic, refuse; the shape stays
//	{"op":"restore"}                       heals and returns to the configured shape
//	{"op":"stats"}
type request struct {
	Op        string     `json:"op"`
	Direction directions `json:"direction,omitempty"`
	Traffic   kinds      `json:"traffic,omitempty"`
	shapeJSON
}

// answer is the one line that comes back.
type answer struct {
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
	Stats *Stats `json:"stats,omitempty"`
}

// directions is one or both, written as Direction or "both". nil is both, unwritten.
type directions []Direction

func (ds directions) MarshalText() ([]byte, error) {
	if len(ds) == 1 {
		return ds[0].MarshalText()
	}
	return []byte("both"), nil
}

func (ds *directions) UnmarshalText(text []byte) error {
	if string(text) == "both" {
		*ds = directions{AtoB, BtoA}
		return nil
	}
	var d Direction
	if err := d.UnmarshalText(text); err != nil {
		return fmt.Errorf("direction %q: write a-to-b, b-to-a or both", text)
	}
	*ds = directions{d}
	return nil
}

// kinds is one kind of traffic or both, written as Traffic or "both". nil is both, unwritten.
type kinds []Traffic

func (ks kinds) MarshalText() ([]byte, error) {
	if len(ks) == 1 {
		return ks[0].MarshalText()
	}
	return []byte("both"), nil
}

func (ks *kinds) UnmarshalText(text []byte) error {
	if string(text) == "both" {
		*ks = kinds{Data, Control}
		return nil
	}
	var t Traffic
	if err := t.UnmarshalText(text); err != nil {
		return fmt.Errorf("traffic %q: write data, control or both", text)
	}
	*ks = kinds{t}
	return nil
}

// decodeRequest parses a line and refuses what its operation does not know: a drill that misspells a field must not
// appear to have worked.
func decodeRequest(line []byte) (request, error) {
	var q request
	if len(line) > lineMaxBytes {
		return q, fmt.Errorf("request longer than %d bytes", lineMaxBytes)
	}
	if err := decodeStrict(line, &q); err != nil {
		return request{}, fmt.Errorf("request: %w", err)
	}
	switch q.Op {
	case "slow":
		q.Op = "shape"
	case "pause":
		q.Op = "stall"
	}
	var shaped, directed bool
	switch q.Op {
	case "shape":
		shaped = true
	case "cut", "stall", "heal":
		directed = true
	case "refuse", "restore", "stats":
	default:
		return request{}, fmt.Errorf("op %q: write shape, cut, stall, refuse, heal, restore or stats", q.Op)
	}
	if !shaped && q.shapeJSON != (shapeJSON{}) {
		return request{}, fmt.Errorf("op %q takes no shape", q.Op)
	}
	if shaped && q.shapeJSON == (shapeJSON{}) {
		return request{}, errors.New("op \"shape\": write at least one of rtt, jitter, loss, bandwidth")
	}
	if !directed && q.Direction != nil {
		return request{}, fmt.Errorf("op %q takes no direction", q.Op)
	}
	if !directed && q.Traffic != nil {
		return request{}, fmt.Errorf("op %q takes no traffic", q.Op)
	}
	if directed && q.Direction == nil {
		q.Direction = directions{AtoB, BtoA}
	}
	if directed && q.Traffic == nil {
		q.Traffic = kinds{Data, Control}
	}
	return q, nil
}

// decodeStrict decodes exactly one JSON value without unknown fields.
func decodeStrict(data []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("more after the value, at byte %d", dec.InputOffset())
	}
	return nil
}
