package peers

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

const greeting = `<?xml version='1.0'?><stream:stream id='1' version='1.0' xml:lang='en' xmlns:stream='http://etherx.jabber.org/streams' from='localhost' xmlns='jabber:client'>`

const delivered = `<message xml:lang='en' to='u1@localhost/r' from='u0@localhost/r' type='chat' id='7' xmlns='jabber:client'>` +
	`<archived by='u1@localhost' id='1700000000000001' xmlns='urn:xmpp:mam:tmp'/><stanza-id by='u1@localhost' id='1700000000000001' xmlns='urn:xmpp:sid:0'/><body>12 a &lt;b&gt; &#x41;</body></message>`

// split returns all stanzas of a stream and what ended it.
func split(in io.Reader) (out []string, err error) {
	r := stanzaReader{in: bufio.NewReaderSize(in, 16)}
	for {
		s, err := r.next()
		if err != nil {
			return out, err
		}
		out = append(out, string(s))
	}
}

func TestStanzaReaderSplits(t *testing.T) {
	header := strings.TrimPrefix(greeting, `<?xml version='1.0'?>`)
	for _, c := range []struct {
		name, in string
		want     []string
		end      error // nil: any other than the two below
	}{
		{"a conversation", greeting + "<stream:features/>\n " + delivered + delivered, []string{header, "<stream:features/>", delivered, delivered}, io.EOF},
		{"the same name within itself", "<a><a/><a></a></a><b/>", []string{"<a><a/><a></a></a>", "<b/>"}, io.EOF},
		{"quoted brackets", `<a b='/>' c="'>"><d e='</a>'/></a>`, []string{`<a b='/>' c="'>"><d e='</a>'/></a>`}, io.ErrUnexpectedEOF},
		{"its end", "<a/></stream:stream>", []string{"<a/>"}, errStreamEnd},
		{"a comment", "<a><!-- x --></a>", nil, nil},
		{"a document type", "<!DOCTYPE a><a/>", nil, nil},
		{"an instruction within", "<a><?x?></a>", nil, nil},
		{"text between", "<a/>x", []string{"<a/>"}, nil},
		{"an end alone", "</a>", nil, nil},
		{"too deep", strings.Repeat("<a>", maxDepth+1), nil, nil},
		{"too long", "<a>" + strings.Repeat("x", maxStanza), nil, nil},
		{"an empty tag", "<>", nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := split(strings.NewReader(c.in))
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			isEnd := errors.Is(err, io.EOF) || errors.Is(err, errStreamEnd)
			switch {
			case c.end == nil && isEnd:
				t.Errorf("ended with %v, want a refusal", err)
			case c.end == errStreamEnd && !errors.Is(err, errStreamEnd):
				t.Errorf("ended with %v", err)
			}
		})
	}
}

func TestParseStanza(t *testing.T) {
	e, err := parseStanza([]byte(delivered))
	if err != nil {
		t.Fatal(err)
	}
	if e.name != "message" || e.attr("id") != "7" || e.child("body").text != "12 a <b> A" || e.child("stanza-id").attr("by") != "u1@localhost" {
		t.Errorf("got %+v", e)
	}
	if e.attr("none") != "" || e.child("none") != nil {
		t.Error("what is not there was found")
	}
	for _, bad := range []string{
		"", "a", "<a", "<a>", "<a></b>", "<a b></a>", "<a b=c/>", "<a b='c'd='e'/>", "<a b='<'/>", "<a>&x;</a>", "<a>&#xD800;</a>", "<a>&amp</a>", "<a/><b/>", "<a b='1", "</a>",
	} {
		if e, err := parseStanza([]byte(bad)); err == nil {
			t.Errorf("%q was taken for %+v", bad, e)
		}
	}
}

func TestArchivedDemandsTheArchive(t *testing.T) {
	parse := func(s string) *element {
		e, err := parseStanza([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		return &e
	}
	number, text, err := archived(parse(delivered), "chat", "u1@localhost")
	if number != 7 || text != "12 a <b> A" || err != nil {
		t.Errorf("got %d, %q, %v", number, text, err)
	}
	if _, text, err := archived(parse(delivered), "groupchat", "u1@localhost"); text != "" || err != nil {
		t.Errorf("a message of another kind: %q, %v", text, err)
	}
	for name, bad := range map[string]string{
		"another's archive": strings.ReplaceAll(delivered, "u1@localhost'", "u2@localhost'"),
		"no archive":        strings.ReplaceAll(delivered, "stanza-id", "other"),
		"no number":         strings.Replace(delivered, "id='7'", "id='x'", 1),
	} {
		if n, _, err := archived(parse(bad), "chat", "u1@localhost"); err == nil {
			t.Errorf("%s: taken as the acknowledgement of %d", name, n)
		}
	}
}

// How a stream is cut into packets must make no difference, and what both we
// and encoding/xml understand we must understand alike.
func FuzzStanzaReader(f *testing.F) {
	f.Add([]byte(greeting + "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>" + delivered))
	f.Add([]byte("<iq type='result' id='p'><fin complete='true'/></iq></stream:stream>"))
	f.Add([]byte(`<a b = "&quot;&#10;" ><c/>t&amp;t</a >`))
	f.Fuzz(func(t *testing.T, b []byte) {
		whole, err1 := split(bytes.NewReader(b))
		cut, err2 := split(iotest.OneByteReader(bytes.NewReader(b)))
		if !reflect.DeepEqual(whole, cut) || err1.Error() != err2.Error() {
			t.Fatalf("whole: %q, %v\nin bytes: %q, %v", whole, err1, cut, err2)
		}
		for _, s := range whole {
			ours, err := parseStanza([]byte(s))
			if err != nil || ours.name == "stream:stream" {
				continue
			}
			theirs, ok := xmlElement(s)
			if !ok {
				continue // stricter about characters than we need be
			}
			normalise(&ours)
			normalise(&theirs)
			if !reflect.DeepEqual(ours, theirs) {
				t.Fatalf("%q:\nours   %+v\ntheirs %+v", s, ours, theirs)
			}
		}
	})
}

// normalise undoes what XML allows to differ in the ends of lines.
func normalise(e *element) {
	lines := strings.NewReplacer("\r\n", "\n", "\r", "\n")
	e.text = lines.Replace(e.text)
	for i := range e.attrs {
		e.attrs[i].value = lines.Replace(e.attrs[i].value)
	}
	for i := range e.children {
		normalise(&e.children[i])
	}
}

// xmlElement is parseStanza by the standard library.
func xmlElement(s string) (element, bool) {
	d := xml.NewDecoder(strings.NewReader(s))
	name := func(n xml.Name) string {
		if n.Space != "" {
			return n.Space + ":" + n.Local
		}
		return n.Local
	}
	var open []element
	for {
		token, err := d.RawToken()
		if err != nil {
			return element{}, false
		}
		switch token := token.(type) {
		case xml.StartElement:
			e := element{name: name(token.Name)}
			for _, a := range token.Attr {
				e.attrs = append(e.attrs, attr{name(a.Name), a.Value})
			}
			open = append(open, e)
		case xml.CharData:
			if len(open) == 0 {
				return element{}, false
			}
			open[len(open)-1].text += string(token)
		case xml.EndElement:
			e := open[len(open)-1]
			if open = open[:len(open)-1]; len(open) == 0 {
				_, err := d.RawToken()
				return e, errors.Is(err, io.EOF)
			}
			p := &open[len(open)-1]
			p.children = append(p.children, e)
		default:
			return element{}, false
		}
	}
}

func FuzzEscape(f *testing.F) {
	f.Add(`a <b> & "c" 'd'`)
	f.Fuzz(func(t *testing.T, s string) {
		safe := escape(s)
		if strings.ContainsAny(safe, `<>"'`) {
			t.Fatalf("%q is escaped as %q", s, safe)
		}
		if back, err := unescape(safe); err != nil || back != s {
			t.Fatalf("%q came back as %q, %v", s, back, err)
		}
	})
}
