package peers

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds of what a server may say at once.
const (
	maxStanza = 1 << 20
	maxDepth  = 64
	maxAttrs  = 64
)

// errStreamEnd is that the server closed its stream.
var errStreamEnd = errors.New("the server closed the stream")

// stanzaReader splits an XMPP stream into its top-level elements. It knows just
// the XML that XMPP allows: no comments, no processing instructions (but the
// declaration before the stream), no document types.
type stanzaReader struct {
	in  *bufio.Reader
	buf []byte
}

// next returns the bytes of the next top-level element, good until the next
// call. The opening tag of the stream counts as one; its end is errStreamEnd.
func (r *stanzaReader) next() ([]byte, error) {
	r.buf = r.buf[:0]
	for depth := 0; ; {
		c, err := r.in.ReadByte()
		if err != nil {
			return nil, err
		}
		if depth == 0 && c != '<' {
			if c == ' ' || c == '\n' || c == '\r' || c == '\t' { // keeps a connection alive
				continue
			}
			return nil, fmt.Errorf("byte %q between stanzas", c)
		}
		if err := r.add(c); err != nil {
			return nil, err
		}
		if c != '<' {
			continue
		}
		tag, err := r.tag()
		if err != nil {
			return nil, err
		}
		switch {
		case tag[1] == '?':
			if depth > 0 {
				return nil, errors.New("a processing instruction within a stanza")
			}
			r.buf = r.buf[:0]
		case tag[1] == '!':
			return nil, errors.New("a comment, CDATA or document type, which XMPP has none of")
		case depth == 0 && isStreamTag(tag[1:]):
			return r.buf, nil
		case tag[1] == '/':
			if depth == 0 {
				if isStreamTag(tag[2:]) {
					return nil, errStreamEnd
				}
				return nil, fmt.Errorf("the end tag %q without its begin", tag)
			}
			if depth--; depth == 0 {
				return r.buf, nil
			}
		case tag[len(tag)-2] == '/':
			if depth == 0 {
				return r.buf, nil
			}
		default:
			if depth++; depth > maxDepth {
				return nil, errors.New("a stanza is nested too deeply")
			}
		}
	}
}

// isStreamTag tells whether a tag's name is that of the stream itself.
func isStreamTag(tag []byte) bool {
	rest, ok := bytes.CutPrefix(tag, []byte("stream:stream"))
	return ok && len(rest) > 0 && (rest[0] == '>' || rest[0] == ' ' || rest[0] == '\n' || rest[0] == '\t' || rest[0] == '\r')
}

// tag reads from behind < to >, which may stand in a quoted value too, and
// returns the whole tag.
func (r *stanzaReader) tag() ([]byte, error) {
	begin, quote := len(r.buf)-1, byte(0)
	for {
		c, err := r.in.ReadByte()
		if err != nil {
			return nil, err
		}
		if err := r.add(c); err != nil {
			return nil, err
		}
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '<':
			return nil, errors.New("< within a tag")
		case c == '>':
			if tag := r.buf[begin:]; len(tag) > 2 {
				return tag, nil
			}
			return nil, errors.New("an empty tag")
		}
	}
}

func (r *stanzaReader) add(c byte) error {
	if len(r.buf) >= maxStanza {
		return fmt.Errorf("a stanza of more than %d bytes", maxStanza)
	}
	r.buf = append(r.buf, c)
	return nil
}

// element is a parsed stanza. Names keep their prefix; ejabberd writes default
// namespaces, so that names alone tell elements apart for us.
type element struct {
	name     string
	attrs    []attr
	children []element
	text     string // all character data directly in it
}

type attr struct{ name, value string }

// attr returns a value, empty if there is none.
func (e *element) attr(name string) string {
	for _, a := range e.attrs {
		if a.name == name {
			return a.value
		}
	}
	return ""
}

// child returns the first child with a name; nil if there is none.
func (e *element) child(name string) *element {
	for i := range e.children {
		if e.children[i].name == name {
			return &e.children[i]
		}
	}
	return nil
}

// parseStanza parses one whole element, or the opening tag of a stream.
func parseStanza(raw []byte) (element, error) {
	p := stanzaParser{rest: string(raw)}
	e, err := p.element(0)
	if err != nil {
		return element{}, fmt.Errorf("parse a stanza: %w", err)
	}
	if p.rest != "" {
		return element{}, errors.New("parse a stanza: more follows its end")
	}
	return e, nil
}

type stanzaParser struct{ rest string }

// element parses one whose < is next.
func (p *stanzaParser) element(depth int) (e element, err error) {
	if depth > maxDepth {
		return e, errors.New("nested too deeply")
	}
	if !strings.HasPrefix(p.rest, "<") {
		return e, errors.New("no < where an element begins")
	}
	p.rest = p.rest[1:]
	if e.name, err = p.word(); err != nil {
		return e, err
	}
	empty, err := p.attributes(&e)
	if err != nil || empty {
		return e, err
	}
	if e.name == "stream:stream" && depth == 0 && p.rest == "" {
		return e, nil // its end comes with the end of the conversation
	}
	return e, p.content(&e, depth)
}

// content parses what stands between the tags of e, and its end tag.
func (p *stanzaParser) content(e *element, depth int) error {
	for {
		at := strings.IndexByte(p.rest, '<')
		if at < 0 {
			return fmt.Errorf("<%s> has no end", e.name)
		}
		text, err := unescape(p.rest[:at])
		if err != nil {
			return err
		}
		if text != "" {
			e.text += text
		}
		p.rest = p.rest[at:]
		rest, isEnd := strings.CutPrefix(p.rest, "</")
		if !isEnd {
			c, err := p.element(depth + 1)
			if err != nil {
				return err
			}
			e.children = append(e.children, c)
			continue
		}
		p.rest = rest
		name, err := p.word()
		if err != nil {
			return err
		}
		p.space()
		var closed bool
		if p.rest, closed = strings.CutPrefix(p.rest, ">"); !closed || name != e.name {
			return fmt.Errorf("<%s> is ended by </%s", e.name, name)
		}
		return nil
	}
}

// attributes parses up to the > of a start tag, and tells whether it is the end
// tag as well.
func (p *stanzaParser) attributes(e *element) (empty bool, err error) {
	for {
		spaced := p.space()
		if rest, ok := strings.CutPrefix(p.rest, "/>"); ok {
			p.rest = rest
			return true, nil
		}
		if rest, ok := strings.CutPrefix(p.rest, ">"); ok {
			p.rest = rest
			return false, nil
		}
		if !spaced || len(e.attrs) >= maxAttrs {
			return false, fmt.Errorf("the attributes of <%s> are not well formed", e.name)
		}
		a := attr{}
		if a.name, err = p.word(); err != nil {
			return false, err
		}
		p.space()
		rest, ok := strings.CutPrefix(p.rest, "=")
		if !ok {
			return false, fmt.Errorf("attribute %s has no value", a.name)
		}
		p.rest = rest
		p.space()
		if p.rest == "" || p.rest[0] != '"' && p.rest[0] != '\'' {
			return false, fmt.Errorf("the value of %s is not quoted", a.name)
		}
		value, rest, ok := strings.Cut(p.rest[1:], p.rest[:1])
		if !ok || strings.IndexByte(value, '<') >= 0 {
			return false, fmt.Errorf("the value of %s is not well formed", a.name)
		}
		p.rest = rest
		if a.value, err = unescape(value); err != nil {
			return false, err
		}
		e.attrs = append(e.attrs, a)
	}
}

// word parses a name.
func (p *stanzaParser) word() (string, error) {
	n := 0
	for n < len(p.rest) && strings.IndexByte(" \t\r\n=/>\"'<&", p.rest[n]) < 0 {
		n++
	}
	if n == 0 {
		return "", errors.New("a name is missing")
	}
	w := p.rest[:n]
	p.rest = p.rest[n:]
	return w, nil
}

// space passes over white space and tells whether there was any.
func (p *stanzaParser) space() bool {
	before := len(p.rest)
	p.rest = strings.TrimLeft(p.rest, " \t\r\n")
	return len(p.rest) < before
}

var entities = map[string]string{"lt": "<", "gt": ">", "amp": "&", "quot": `"`, "apos": "'"}

// unescape resolves the five entities of XML and character references.
func unescape(s string) (string, error) {
	if strings.IndexByte(s, '&') < 0 {
		return s, nil
	}
	var out strings.Builder
	for {
		text, rest, more := strings.Cut(s, "&")
		out.WriteString(text)
		if !more {
			return out.String(), nil
		}
		name, after, ok := strings.Cut(rest, ";")
		if !ok {
			return "", errors.New("& without ;")
		}
		s = after
		if number, ok := strings.CutPrefix(name, "#"); ok {
			base := 10
			if hex, ok := strings.CutPrefix(number, "x"); ok {
				number, base = hex, 16
			}
			n, err := strconv.ParseUint(number, base, 32)
			if err != nil || n > utf8.MaxRune || !utf8.ValidRune(rune(n)) {
				return "", fmt.Errorf("&%s; is no character", name)
			}
			out.WriteRune(rune(n))
			continue
		}
		c, ok := entities[name]
		if !ok {
			return "", fmt.Errorf("&%s; is unknown", name)
		}
		out.WriteString(c)
	}
}

var escaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&apos;")

// escape makes s safe within an element or a quoted value.
func escape(s string) string { return escaper.Replace(s) }
