package dsn

import (
	"strings"
	"testing"
)

func TestFindReply(t *testing.T) {
	for in, want := range map[string]int{
		"550 no": 0, "550": 0, "#550 5.1.1 no": 1, "554 30 no": 0, "550 1234": -1, "550-5.1.1 no": 0, "said: 550 5.1.1 no": 6, "(550 no)": 1, `'421 later'`: 1, "smtp;554 5.7.1 no": 5,
		"code :550, no": 6, "<<< 450 4.2.0 later": 4, "554 554 5.7.0 no": 0,
		"": -1, "250 ok": -1, "55": -1, "5500 a": -1, "mx550 a": -1, "192.0.2.550 a": -1, "port=550 a": -1, "580 a": -1, "after 500 bytes": -1,
		"452 seconds": -1, "page/#554": -1, "#550 a": -1, "1-550 a": -1, "550.1": -1, "550:25": -1, "550/a": -1, "500 messages, then 550 no": 19,
	} {
		at, ok := FindReply(in, 0)
		if !ok {
			at = -1
		}
		if at != want {
			t.Errorf("FindReply(%q) = %d, want %d", in, at, want)
		}
	}
}

func TestFindEnhanced(t *testing.T) {
	for in, want := range map[string]string{
		"550 5.1.1 no": "5.1.1", "550-5.1.1 no": "5.1.1", "no (#5.4.4)": "5.4.4", "5.1.0 - unknown 550-'5.2.2 full'": "5.2.2",
		"550 550 5.7.1 no": "5.7.1", "550 no (#5.1.1 - chkuser)": "5.1.1", "4.4.7 expired": "4.4.7", "said: 421 4.7.0 [TS01]": "4.7.0",
		"550 4.7.1 odd": "4.7.1", "host 5.1.1.4 said no": "", "Exim 4.86.2 said no": "", "550 no": "", "": "", "version 5.5.1960": "", "v5.1.1": "",
		"550 5.7.1": "5.7.1", "id 5.1.1-22": "",
	} {
		if got := FindEnhanced(in).String(); got != want {
			t.Errorf("FindEnhanced(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzFindReply(f *testing.F) {
	for _, seed := range []string{"550 5.1.1 no", "host 192.0.2.1 said: 421 4.7.0", strings.Repeat("5", 100), "#5.1.1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if at, ok := FindReply(s, 0); ok && (s[at] != '4' && s[at] != '5') {
			t.Errorf("FindReply(%q) = %d", s, at)
		}
		code := FindEnhanced(s)
		if known := code.Class == 2 || code.Class == 4 || code.Class == 5; !code.IsZero() && (!known || code.Subject > maxSubject) {
			t.Errorf("FindEnhanced(%q) = %v", s, code)
		}
	})
}

func TestStatusIsWhatTheServerSaid(t *testing.T) {
	for _, tc := range []struct{ name, fields, status, diagnostic string }{
		{"the field is general", "Status: 5.0.0\nDiagnostic-Code: smtp; 550 5.7.1 no", "5.7.1", "550 5.7.1 no"},
		{"the field is another", "Status: 4.4.7\nDiagnostic-Code: smtp; 450 4.7.1 no", "4.7.1", "450 4.7.1 no"},
		{"the reply is general", "Status: 5.1.1\nDiagnostic-Code: smtp; 550 5.0.0 no", "5.1.1", "550 5.0.0 no"},
		{"no field", "Diagnostic-Code: smtp; 550 5.0.0 no", "5.0.0", "550 5.0.0 no"},
		{"no code", "Status: 5.2.2\nDiagnostic-Code: smtp; 552 full", "5.2.2", "552 full"},
		{"a greeting before it", "Action: failed\nStatus: 4.0.0\nDiagnostic-Code: smtp; 220-mx 421 4.2.1 later", "4.2.1", "421 4.2.1 later"},
		{"a success", "Action: delivered\nStatus: 2.0.0\nDiagnostic-Code: smtp; 250 2.1.5 ok 550 x", "2.1.5", "250 2.1.5 ok 550 x"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := parse(t, report("Reporting-MTA: dns; mx\n\nFinal-Recipient: rfc822; a@b.example\n"+tc.fields, ""))
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Recipients[0]; got.Status.String() != tc.status || got.Diagnostic != tc.diagnostic {
				t.Errorf("got %s %q, want %s %q", got.Status, got.Diagnostic, tc.status, tc.diagnostic)
			}
		})
	}
}
