package selector

import "testing"

func FuzzSelector(f *testing.F) {
	for _, s := range []string{"", "a=b", "a==b,c!=d", "!a,b", "a in (b, c),d notin (e)", "a in", "(", "a in )(", ",", "a,,b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		for _, r := range s {
			if r.key == "" {
				t.Errorf("%q has a requirement without a key", text)
			}
		}
		s.Matches(map[string]string{"a": "b"})
	})
}

func TestSelectorsThatAreRefused(t *testing.T) {
	for _, text := range []string{"a b", "=b", "a in b)", "a in (b", "a notin", ",a", "a on (b)", "!"} {
		if s, err := Parse(text); err == nil {
			t.Errorf("%q reads as %+v", text, s)
		}
	}
}
