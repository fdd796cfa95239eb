package route

// One normaliser stands before every decision on a path: before routes are matched in
// the client's proxy and before access is decided in the server's. What it returns is what the
// decision sees and what is forwarded: a backend never gets a path that a policy did not.
//
// Normal form (RFC 3986 §6.2.2): unreserved characters are not percent-encoded, digits of
// percent-encodings are upper case, dot segments are resolved, and slashes in a row are
// one. It is what manifests may state.

// NormalPath returns the normal form of a request's path with its query, which is left as
// it is, and why there is none: empty if there is. It works in place and may return path
// itself. "*" (RFC 9112 §3.2.4) is its own normal form.
//
// Refused is what servers are known to read in two ways: an encoded slash, backslash or
// NUL, a bare backslash, a malformed encoding, bytes that are not ASCII, a path that climbs above its
// root, and a dot segment with parameters ("..;").
func NormalPath(path []byte) (normal []byte, problem string) {
	if len(path) == 1 && path[0] == '*' {
		return path, ""
	}
	if len(path) == 0 || path[0] != '/' {
		return nil, "it does not begin with /"
	}
	end := len(path)
	plain := true
	for i, c := range path {
		if c == '?' {
			end = i
			break
		}
		switch {
		case c == '%' || c == '/' && i+1 < len(path) && (path[i+1] == '/' || path[i+1] == '.'):
			plain = false
		case c == '\\':
			return nil, "it holds a backslash"
		case c <= ' ' || c >= 0x7f || c == '#':
			return nil, "it holds a character that a path may not"
		}
	}
	if plain {
		return path, ""
	}
	n, problem := decode(path[:end])
	if problem == "" {
		n, problem = resolve(path[:n])
	}
	if problem != "" {
		return nil, problem
	}
	return append(path[:n], path[end:]...), "" // in place: the query moves left
}

// decode rewrites percent-encodings into normal form and returns the new length.
func decode(p []byte) (int, string) {
	w := 0
	for i := 0; i < len(p); i++ {
		c := p[i]
		if c != '%' {
			p[w] = c
			w++
			continue
		}
		if i+2 >= len(p) || !isHex(p[i+1]) || !isHex(p[i+2]) {
			return 0, "it holds a % without two hexadecimal digits"
		}
		v := fromHex(p[i+1])<<4 | fromHex(p[i+2])
		switch {
		case v == '/' || v == '\\' || v == 0:
			return 0, "it holds an encoded slash, backslash or NUL"
		case unreserved(v):
			p[w] = v
			w++
		default:
			p[w], p[w+1], p[w+2] = '%', upperHex(p[i+1]), upperHex(p[i+2])
			w += 3
		}
		i += 2
	}
	return w, ""
}

// resolve removes empty and dot segments (RFC 3986 §5.2.4) and returns the new length.
func resolve(p []byte) (int, string) {
	w := 0 // p[:w] is the path so far, without a final slash
	for i := 0; i < len(p); {
		j := i + 1 // p[i] is a slash
		for j < len(p) && p[j] != '/' {
			j++
		}
		last := j == len(p)
		switch segment := p[i+1 : j]; {
		case string(segment) == "" || string(segment) == ".":
			if last {
				p[w] = '/'
				w++
			}
		case string(segment) == "..":
			if w == 0 {
				return 0, "it climbs above its root"
			}
			for w--; p[w] != '/'; w-- {
			}
			if last {
				p[w] = '/'
				w++
			}
		case dotted(segment):
			return 0, "it holds a dot segment with parameters"
		default:
			w += copy(p[w:], p[i:j])
		}
		i = j
	}
	return w, ""
}

// dotted reports whether a segment is "." or ".." before a semicolon: some servers cut
// parameters off first and resolve then.
func dotted(s []byte) bool {
	n := 0
	for n < len(s) && s[n] == '.' {
		n++
	}
	return n >= 1 && n <= 2 && n < len(s) && s[n] == ';'
}

// unreserved is RFC 3986 §2.3.
func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

func upperHex(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 'A'
	}
	return c
}
