// Package selector reads Kubernetes' label selectors. Its one idea is that one that is not understood is an error and never one that
// selects everything. It selects nothing by fields. Read Parse, then Selector.
package selector

import (
	"fmt"
	"slices"
	"strings"
)

// Selector is a Kubernetes label selector: all requirements must hold.
type Selector []requirement

// requirement is "key in values"; not inverts it; no values at all asks for presence.
type requirement struct {
	key    string
	values []string
	not    bool
}

// Parse reads KEY=VALUE, KEY==VALUE, KEY!=VALUE, KEY, !KEY, KEY in (A,B) and KEY
// notin (A,B), joined by commas.
func Parse(text string) (Selector, error) {
	var out Selector
	for rest := strings.TrimSpace(text); rest != ""; {
		end := strings.IndexByte(rest, ',')
		if open := strings.IndexByte(rest, '('); open >= 0 && (end < 0 || open < end) {
			closing := strings.IndexByte(rest, ')')
			if closing < open {
				return nil, fmt.Errorf("label selector %q: a ) is missing", text)
			}
			if end = strings.IndexByte(rest[closing:], ','); end >= 0 {
				end += closing
			}
		}
		term := rest
		if rest = ""; end >= 0 {
			term, rest = term[:end], strings.TrimSpace(term[end+1:])
		}
		r, ok := parseRequirement(strings.TrimSpace(term))
		if !ok {
			return nil, fmt.Errorf("label selector %q: %q is not understood", text, term)
		}
		out = append(out, r)
	}
	return out, nil
}

func parseRequirement(term string) (requirement, bool) {
	var r requirement
	set, isSet := strings.CutSuffix(term, ")")
	switch {
	case isSet:
		head, values, _ := strings.Cut(set, "(")
		words := strings.Fields(head)
		if len(words) != 2 || words[1] != "in" && words[1] != "notin" {
			return r, false
		}
		r.key, r.not = words[0], words[1] == "notin"
		for v := range strings.SplitSeq(values, ",") {
			r.values = append(r.values, strings.TrimSpace(v))
		}
	case strings.HasPrefix(term, "!"):
		r.key, r.not = strings.TrimSpace(term[1:]), true
	default:
		key, value, ok := strings.Cut(term, "=")
		r.key = strings.TrimSpace(key)
		if ok {
			r.values = []string{strings.TrimSpace(strings.TrimPrefix(value, "="))}
			if k, not := strings.CutSuffix(r.key, "!"); not {
				r.key, r.not = strings.TrimSpace(k), true
			}
		}
	}
	return r, r.key != "" && !strings.ContainsAny(r.key, " ()!=,")
}

func (s Selector) Matches(labels map[string]string) bool {
	for _, r := range s {
		got, holds := labels[r.key]
		if len(r.values) > 0 {
			holds = holds && slices.Contains(r.values, got)
		}
		if holds == r.not {
			return false
		}
	}
	return true
}
