package manifest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Marshal writes the object as YAML, members in alphabetical order as kubectl prints
// them. Parse(Marshal(o)) is o but for its place. A Secret prints its content, encoded,
// as with kubectl: the caller asked for it.
func Marshal(o Object) ([]byte, error) {
	values, err := readJSON(o.JSON, func(place, string, place) {})
	if err != nil || len(values) != 1 {
		return nil, fmt.Errorf("print %s: its JSON is broken", o)
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	enc.CompactSeqIndent()
	if err := enc.Encode(node(values[0])); err != nil {
		return nil, fmt.Errorf("print %s: %w", o, err)
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("print %s: %w", o, err)
	}
	return b.Bytes(), nil
}

func node(v *value) *yaml.Node {
	switch v.kind {
	case kindList:
		n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for _, e := range v.list {
			n.Content = append(n.Content, node(e))
		}
		if len(v.list) == 0 {
			n.Style = yaml.FlowStyle
		}
		return n
	case kindObject:
		n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		for _, f := range slices.SortedFunc(slices.Values(v.fields), func(a, b field) int { return strings.Compare(a.key, b.key) }) {
			n.Content = append(n.Content, textNode(f.key), node(f.value))
		}
		if len(v.fields) == 0 {
			n.Style = yaml.FlowStyle
		}
		return n
	case kindString:
		return textNode(v.text)
	case kindNull:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Value: v.text}
}

// textNode writes text: plain where every reader takes it for text, as a block where it
// has lines, in quotes otherwise.
func textNode(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	kind, _ := resolvePlain(s)
	switch {
	case isBlockText(s):
		n.Style = yaml.LiteralStyle
	case kind != kindString || s == "<<" || s == "=" || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7F }):
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// isBlockText reports whether s reads well and exactly as a literal block: several
// printable lines that neither begin nor end with space.
func isBlockText(s string) bool {
	if !strings.Contains(strings.TrimRight(s, "\n"), "\n") || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\n' || r >= 0x7F }) {
		return false
	}
	for line := range strings.SplitSeq(s, "\n") {
		if strings.TrimRight(line, " ") != line {
			return false
		}
	}
	return s[0] != ' ' && s[0] != '\n' && !strings.HasSuffix(s, "\n\n")
}
