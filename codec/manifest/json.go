//house:exempt a parser

package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// jsonReader turns JSON text into positioned values. JSON has its own reader because
// YAML's refuses some JSON: escaped surrogate pairs (RFC 8259 §7).
type jsonReader struct {
	text []byte
	dec  *json.Decoder
	dup  func(at place, key string, first place)
	// seen is the place of the byte at offset. Tokens come in order, so the text is
	// walked once.
	seen   place
	offset int
}

// errNotJSON says that the text is not JSON; it may be YAML.
var errNotJSON = errors.New("not JSON")

// readJSON reads the values of text, one after the other. dup is told of each
// duplicate member; the first one stays.
func readJSON(text []byte, dup func(at place, key string, first place)) ([]*value, error) {
	r := &jsonReader{text: text, dec: json.NewDecoder(bytes.NewReader(text)), dup: dup, seen: place{1, 1}}
	r.dec.UseNumber()
	var values []*value
	for {
		tok, err := r.dec.Token()
		if errors.Is(err, io.EOF) {
			return values, nil
		}
		if err != nil {
			return nil, errNotJSON
		}
		v, err := r.value(tok, r.start(tok), 0)
		if err != nil {
			return nil, err
		}
		values = append(values, v)
	}
}

func (r *jsonReader) value(tok json.Token, at place, depth int) (*value, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	v := &value{place: at}
	switch t := tok.(type) {
	case nil:
	case bool:
		v.kind, v.text = kindBool, fmt.Sprint(t)
	case string:
		v.kind, v.text = kindString, t
	case json.Number:
		kind, text, ok := number(t.String())
		if !ok {
			return nil, errNotJSON
		}
		v.kind, v.text = kind, text
	case json.Delim:
		var err error
		if t == '{' {
			v.kind, err = kindObject, r.object(v, depth)
		} else {
			v.kind, err = kindList, r.list(v, depth)
		}
		if err != nil {
			return nil, err
		}
	}
	return v.measure(), nil
}

func (r *jsonReader) object(v *value, depth int) error {
	seen := map[string]place{}
	for {
		tok, err := r.dec.Token()
		if err != nil {
			return errNotJSON
		}
		key, ok := tok.(string)
		if !ok {
			return nil // the closing brace
		}
		at := r.start(tok)
		tok, err = r.dec.Token()
		if err != nil {
			return errNotJSON
		}
		e, err := r.value(tok, r.start(tok), depth+1)
		if err != nil {
			return err
		}
		if first, twice := seen[key]; twice {
			r.dup(at, key, first)
			continue
		}
		seen[key] = at
		v.fields = append(v.fields, field{at, key, e})
	}
}

func (r *jsonReader) list(v *value, depth int) error {
	for {
		tok, err := r.dec.Token()
		if err != nil {
			return errNotJSON
		}
		if tok == json.Delim(']') {
			return nil
		}
		e, err := r.value(tok, r.start(tok), depth+1)
		if err != nil {
			return err
		}
		v.list = append(v.list, e)
	}
}

// start is the place where the token just read began: the decoder tells only where it
// ended, so strings are walked back to their opening quote.
func (r *jsonReader) start(tok json.Token) place {
	end := int(r.dec.InputOffset())
	begin := end - 1
	switch t := tok.(type) {
	case string:
		for begin--; begin > 0 && !(r.text[begin] == '"' && !escaped(r.text, begin)); begin-- {
		}
	case json.Number:
		begin = end - len(t.String())
	case bool, nil:
		for begin > 0 && 'a' <= r.text[begin-1] && r.text[begin-1] <= 'z' {
			begin--
		}
	}
	for ; r.offset < begin; r.offset++ {
		switch c := r.text[r.offset]; {
		case c == '\n':
			r.seen = place{r.seen.line + 1, 1}
		case utf8.RuneStart(c):
			r.seen.column++
		}
	}
	return r.seen
}

// escaped reports whether an odd number of backslashes stands before i.
func escaped(text []byte, i int) bool {
	odd := false
	for i--; i >= 0 && text[i] == '\\'; i-- {
		odd = !odd
	}
	return odd
}
