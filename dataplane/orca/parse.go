//house:exempt a parser

package orca

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"math"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// Report is what counts of an OrcaLoadReport (xds.data.orca.v3). A value that is not stated is 0.
type Report struct {
	// Application is how much of what it has the application uses, CPU of its processor, and Named the most of what it has names
	// for: 1 is all of it.
	Application, CPU, Named float64
	// RPS is how many requests a second it serves, whoever asks, and EPS how many of them fail.
	RPS, EPS float64
}

// Utilisation is what says how busy the application is: its own word before that of what it uses.
func (r *Report) Utilisation() float64 {
	if r.Application > 0 {
		return r.Application
	}
	return max(r.CPU, r.Named)
}

// What a report may be at most.
const (
	sizeMax     = 4096 // bytes of a field's value
	entriesMax  = 64
	nameMax     = 128
	partMost    = 100  // of a utilisation
	rateMost    = 1e9  // a second
	valueMost   = 1e18 // of what only its application understands
	numberChars = 64
)

// Why a report counts for nothing.
var (
	ErrSize   = errors.New("it is too large, or has too many entries")
	ErrForm   = errors.New("it has no form that is known: want TEXT, JSON or BIN and a space before it")
	ErrSyntax = errors.New("it is not well-formed")
	ErrName   = errors.New("it has a name that is not known, or one twice")
	ErrValue  = errors.New("it has a value that is none")
)

// numbers of the fields of an OrcaLoadReport.
const (
	cpu         = 1
	memory      = 2
	rps         = 3 // deprecated, a whole number
	cost        = 4
	named       = 5
	rpsFraction = 6
	eps         = 7
	metrics     = 8
	application = 9
	fields      = 10
)

// ours is a field by its name in proto and in JSON.
func ours(name []byte) int {
	switch string(name) {
	case "cpu_utilization", "cpuUtilization":
		return cpu
	case "mem_utilization", "memUtilization":
		return memory
	case "rps":
		return rps
	case "request_cost", "requestCost":
		return cost
	case "utilization":
		return named
	case "rps_fractional", "rpsFractional":
		return rpsFraction
	case "eps":
		return eps
	case "named_metrics", "namedMetrics":
		return metrics
	case "application_utilization", "applicationUtilization":
		return application
	}
	return 0
}

// reading is a report that is read.
type reading struct {
	Report
	seen    [fields]bool
	entries int
}

// Parse reads the value of the field endpoint-load-metrics: a form, a space, and the report in it. It allocates for JSON only.
func Parse(value []byte) (Report, error) {
	if len(value) > sizeMax {
		return Report{}, ErrSize
	}
	var r reading
	err := ErrForm
	if rest, ok := bytes.CutPrefix(value, []byte("TEXT ")); ok {
		err = r.text(rest)
	} else if rest, ok := bytes.CutPrefix(value, []byte("JSON ")); ok {
		err = r.json(rest)
	} else if rest, ok := bytes.CutPrefix(value, []byte("BIN ")); ok {
		return ParseBinary(rest)
	}
	if err != nil {
		return Report{}, err
	}
	return r.Report, nil
}

// ParseBinary reads the value of the field endpoint-load-metrics-bin: base64 with or without padding, as gRPC writes what is
// binary.
func ParseBinary(value []byte) (Report, error) {
	if len(value) > sizeMax {
		return Report{}, ErrSize
	}
	var room [sizeMax]byte
	raw := bytes.TrimRight(bytes.Trim(value, " "), "=")
	n, err := base64.RawStdEncoding.Strict().Decode(room[:], raw)
	if err != nil || bytes.ContainsAny(raw, "\r\n") {
		return Report{}, ErrSyntax
	}
	var r reading
	if err := r.binary(room[:n]); err != nil {
		return Report{}, err
	}
	return r.Report, nil
}

// take takes a value in, of a field that was not there before.
func (r *reading) take(field int, v float64) error {
	most := float64(partMost)
	if field == rps || field == rpsFraction || field == eps {
		most = rateMost
	}
	if math.IsNaN(v) || v < 0 || v > most {
		return ErrValue
	}
	switch field {
	case cpu:
		r.CPU = v
	case application:
		r.Application = v
	case rps: // which the other stands before
		if !r.seen[rpsFraction] {
			r.RPS = v
		}
	case rpsFraction:
		r.RPS = v
	case eps:
		r.EPS = v
	}
	return nil
}

// once says that a field is there.
func (r *reading) once(field int) error {
	if field == 0 || r.seen[field] {
		return ErrName
	}
	r.seen[field] = true
	return nil
}

// enter takes an entry of a map in.
func (r *reading) enter(field int, name []byte, v float64) error {
	if r.entries++; r.entries > entriesMax || len(name) > nameMax {
		return ErrSize
	}
	switch {
	case len(name) == 0:
		return ErrName
	case math.IsNaN(v) || math.Abs(v) > valueMost || field == named && (v < 0 || v > partMost):
		return ErrValue
	case field == named:
		r.Named = max(r.Named, v)
	}
	return nil
}

// text reads NAME=VALUE, with commas between; maps are flat: utilization.NAME. A colon is taken for an equals sign, as
// some write it.
func (r *reading) text(b []byte) error {
	for len(bytes.TrimSpace(b)) > 0 {
		var pair []byte
		pair, b, _ = bytes.Cut(b, []byte(","))
		at := bytes.IndexAny(pair, "=:")
		if at < 0 {
			return ErrSyntax
		}
		name, value := bytes.TrimSpace(pair[:at]), bytes.TrimSpace(pair[at+1:])
		v, err := number(value)
		if err != nil {
			return err
		}
		of, entry, flat := bytes.Cut(name, []byte("."))
		field := ours(of)
		isMap := field == cost || field == named || field == metrics
		if isMap != flat {
			return ErrName
		}
		if flat {
			err = r.enter(field, entry, v)
		} else if err = r.once(field); err == nil {
			err = r.take(field, v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// number is a decimal number as JSON writes it.
func number(b []byte) (float64, error) {
	if len(b) == 0 || len(b) > numberChars {
		return 0, ErrValue
	}
	for _, c := range b {
		if (c < '0' || c > '9') && c != '-' && c != '+' && c != '.' && c != 'e' && c != 'E' {
			return 0, ErrValue
		}
	}
	v, err := strconv.ParseFloat(string(b), 64)
	if err != nil || math.IsInf(v, 0) {
		return 0, ErrValue
	}
	return v, nil
}

// json reads one object, of which some members are objects of numbers.
func (r *reading) json(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := r.object(d, func(name string) error {
		field := ours([]byte(name))
		if err := r.once(field); err != nil {
			return err
		}
		if field != cost && field != named && field != metrics {
			v, err := value(d)
			if err != nil {
				return err
			}
			return r.take(field, v)
		}
		return r.object(d, func(name string) error {
			v, err := value(d)
			if err != nil {
				return err
			}
			return r.enter(field, []byte(name), v)
		})
	}); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return ErrSyntax
	}
	return nil
}

// object reads an object whose members' values member reads.
func (r *reading) object(d *json.Decoder, member func(name string) error) error {
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return ErrSyntax
	}
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return ErrSyntax
		}
		if err := member(name); err != nil {
			return err
		}
	}
	if t, err := d.Token(); err != nil || t != json.Delim('}') {
		return ErrSyntax
	}
	return nil
}

// value is a number, or one in quotes.
func value(d *json.Decoder) (float64, error) {
	t, err := d.Token()
	if err != nil {
		return 0, ErrSyntax
	}
	switch v := t.(type) {
	case json.Number:
		return number([]byte(v))
	case string:
		return number([]byte(v))
	}
	return 0, ErrValue
}

// binary reads a protobuf message. What it does not know it skips, as a message may grow.
func (r *reading) binary(b []byte) error {
	for len(b) > 0 {
		n, typ, size := protowire.ConsumeTag(b)
		if size < 0 {
			return ErrSyntax
		}
		b = b[size:]
		field := int(n)
		want := protowire.Fixed64Type
		switch field {
		case rps:
			want = protowire.VarintType
		case cost, named, metrics:
			want = protowire.BytesType
		case cpu, memory, rpsFraction, eps, application:
		default:
			if size = protowire.ConsumeFieldValue(n, typ, b); size < 0 {
				return ErrSyntax
			}
			b = b[size:]
			continue
		}
		if typ != want {
			return ErrSyntax
		}
		if size = protowire.ConsumeFieldValue(n, typ, b); size < 0 {
			return ErrSyntax
		}
		if err := r.field(field, b[:size]); err != nil {
			return err
		}
		b = b[size:]
	}
	return nil
}

// field reads a whole value of a field that is known.
func (r *reading) field(field int, b []byte) error {
	if field == cost || field == named || field == metrics {
		entry, _ := protowire.ConsumeBytes(b)
		return r.entry(field, entry)
	}
	if err := r.once(field); err != nil {
		return err
	}
	if field == rps {
		v, _ := protowire.ConsumeVarint(b)
		return r.take(field, float64(v))
	}
	return r.take(field, math.Float64frombits(binary.LittleEndian.Uint64(b)))
}

// entry reads an entry of a map: a message of a name and a value.
func (r *reading) entry(field int, b []byte) error {
	var name []byte
	v := 0.0
	for len(b) > 0 {
		n, typ, size := protowire.ConsumeTag(b)
		if size < 0 {
			return ErrSyntax
		}
		b = b[size:]
		if size = protowire.ConsumeFieldValue(n, typ, b); size < 0 {
			return ErrSyntax
		}
		switch {
		case n == 1 && typ == protowire.BytesType:
			name, _ = protowire.ConsumeBytes(b)
		case n == 2 && typ == protowire.Fixed64Type:
			v = math.Float64frombits(binary.LittleEndian.Uint64(b))
		default:
			return ErrSyntax
		}
		b = b[size:]
	}
	return r.enter(field, name, v)
}
