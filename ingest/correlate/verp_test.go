package correlate

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"carom/schemas/suppression"
)

func TestParseVERP(t *testing.T) {
	for _, tc := range []struct {
		address string
		want    []VERP
	}{
		{"news-ann=mail.example@shop.example", []VERP{{"ann@mail.example", "news@shop.example"}}},
		{"bounce+ann=mail.example@shop.example", []VERP{{"ann@mail.example", "bounce@shop.example"}}},
		{"Bounce+Ann.Lee=Mail.Example@Shop.Example", []VERP{{"Ann.Lee@Mail.Example", "Bounce@Shop.Example"}}},
		{"news-x-ann=mail.example@shop.example", []VERP{
			{"x-ann@mail.example", "news@shop.example"}, {"ann@mail.example", "news-x@shop.example"},
		}},
		{"my-list+ann-b=mail.example@shop.example", []VERP{
			{"ann-b@mail.example", "my-list@shop.example"},
			{"list+ann-b@mail.example", "my@shop.example"},
			{"b@mail.example", "my-list+ann@shop.example"},
		}},
		{"a+b=c=mail.example@shop.example", []VERP{{"b=c@mail.example", "a@shop.example"}}},
		{"news@shop.example", nil},
		{"news-ann=mail@shop.example", nil},          // no domain
		{"-ann=mail.example@shop.example", nil},      // no originator
		{"news-=mail.example@shop.example", nil},     // no recipient
		{"news-ann=mail.example", nil},               // no domain of its own
		{"news-ann=.mail.example@shop.example", nil}, // no domain
		{"news-ann=ma il.example@shop.example", nil},
		{"prvs=1234-abcdef=ann.lee@shop.example", nil},              // BATV
		{"SRS0=HHH=TT=orig-in.example=ann.lee@shop.example", nil},   // SRS
		{"news-" + strings.Repeat("a", 320) + "=m.ex@s.ex", nil},    // longer than any path
		{strings.Repeat("-", 300) + "a=m.ex@s.ex", seven("a@m.ex")}, // bounded
		{"", nil},
	} {
		if diff := cmp.Diff(tc.want, ParseVERP(tc.address)); diff != "" {
			t.Errorf("ParseVERP(%q) (-want +got):\n%s", tc.address, diff)
		}
	}
}

// seven returns the readings of an address of 300 hyphens: as many as are looked at.
func seven(recipient string) []VERP {
	var all []VERP
	for i := 1; i <= maxVERPs; i++ {
		all = append(all, VERP{strings.Repeat("-", 299-i) + recipient, strings.Repeat("-", i) + "@s.ex"})
	}
	return all
}

func TestMatchVERP(t *testing.T) {
	k := newKeys(t, key(1))
	ann := sign(t, k, 1, "ann@mail.example")
	forged := sign(t, newKeys(t, key(2)), 1, "ann@mail.example")
	const path, vague = "news-ann=mail.example@shop.example", "my-news-ann=mail.example@shop.example"
	for _, tc := range []struct {
		name       string
		e          Evidence
		method     Method
		confidence float32
		claimed    string
	}{
		{"the address agrees", Evidence{ReturnPaths: []string{path}, Addresses: []string{"Ann@MAIL.example"}}, VERPAddress, 0.5, "Ann@MAIL.example"},
		{"the address tells the reading", Evidence{ReturnPaths: []string{vague}, Addresses: []string{"ann@mail.example"}}, VERPAddress, 0.5, "ann@mail.example"},
		{"no address", Evidence{ReturnPaths: []string{path}}, VERPAddress, 0.5, "ann@mail.example"},
		{"a blanked address", Evidence{ReturnPaths: []string{path}, Addresses: []string{"redacted"}}, VERPAddress, 0.5, "ann@mail.example"},
		{"no address, two readings", Evidence{ReturnPaths: []string{vague}}, VERPAddress, 0.3, "news-ann@mail.example"},
		{"another address", Evidence{ReturnPaths: []string{path}, Addresses: []string{"bob@mail.example"}}, None, 0, ""},
		{"a token goes before it", Evidence{ReturnPaths: []string{path}, References: []string{ann}, Addresses: []string{"ann@mail.example"}}, ReferenceHeader, 1, ""},
		{"a forged token spoils it", Evidence{ReturnPaths: []string{path}, References: []string{forged}, Addresses: []string{"ann@mail.example"}}, None, 0, ""},
	} {
		m := k.Match(tc.e, now)
		if m.Method != tc.method || m.Confidence != tc.confidence || m.Claimed != tc.claimed {
			t.Errorf("%s: %+v, want %s %v %q", tc.name, m, tc.method, tc.confidence, tc.claimed)
		}
		if tc.method == VERPAddress && (m.Address != "" || m.Ref != (Ref{}) || m.Method.Proves()) {
			t.Errorf("%s: a VERP address proves something: %+v", tc.name, m)
		}
	}
}

func FuzzParseVERP(f *testing.F) {
	f.Add("news-ann=mail.example@shop.example")
	f.Add("a+b-c+d=e=f.g@h.i")
	f.Fuzz(func(t *testing.T, address string) {
		found := ParseVERP(address)
		if len(found) > maxVERPs {
			t.Errorf("%d readings", len(found))
		}
		for _, v := range found {
			if !writes(v, "-", address) && !writes(v, "+", address) {
				t.Errorf("ParseVERP(%q) says %+v, which is written otherwise", address, v)
			}
		}
	})
}

// writes reports whether v with a separator makes address.
func writes(v VERP, separator, address string) bool {
	at, own := strings.LastIndexByte(v.Recipient, '@'), strings.LastIndexByte(v.Originator, '@')
	return v.Originator[:own]+separator+v.Recipient[:at]+"="+v.Recipient[at+1:]+v.Originator[own:] == address
}

// FuzzMatch: whatever a stranger writes around a genuine token proves its own recipient and nobody
// else, and without a token nothing is proven.
func FuzzMatch(f *testing.F) {
	k := newKeys(f, key(1))
	ann := sign(f, k, 1, "ann@mail.example")
	f.Add("TOKEN@bounce.example", "x", "y", "ann@mail.example")
	f.Add("news-ann=mail.example@shop.example", "TOKEN", "", "bob@mail.example")
	f.Add("prvs=1234=TOKEN@shop.example", "b-b-TOKEN", "TOKENa", "")
	f.Fuzz(func(t *testing.T, path, reference, envelope, address string) {
		e := Evidence{ReturnPaths: []string{path}, References: []string{reference}, EnvelopeIDs: []string{envelope}, Addresses: []string{address}}
		if m := k.Match(e, now); m.Method.Proves() || m.Address != "" || m.Ref != (Ref{}) {
			t.Fatalf("without a token: %+v", m)
		}
		for i := range e.ReturnPaths {
			e.ReturnPaths[i] = strings.ReplaceAll(path, "TOKEN", ann)
			e.References[i], e.EnvelopeIDs[i] = strings.ReplaceAll(reference, "TOKEN", ann), strings.ReplaceAll(envelope, "TOKEN", ann)
		}
		m := k.Match(e, now)
		proven := suppression.Normalize(m.Address) == "ann@mail.example"
		if (m.Address != "" || m.Confidence == 1) && !proven || m.Method.Proves() && (m.Ref.MessageID != message || m.Ref.Index != 1) {
			t.Fatalf("with a token: %+v", m)
		}
	})
}
