package smtpstatus

import "testing"

func TestParseEnhanced(t *testing.T) {
	for in, want := range map[string]string{
		"2.0.0 Ok": "2.0.0", "5.1.1": "5.1.1", "4.7.28  a": "4.7.28", "5.999.999 x": "5.999.999",
		"": "", "5": "", "5.1": "", "5.1.": "", ".1.1": "", "5..1": "", "5.1.1.1 x": "", "5.1.1000": "", "3.1.1 x": "", "5.1.a": "", "5.1.1x": "", "Ok 5.1.1": "", "-5.1.1": "",
	} {
		code, rest := ParseEnhanced(in)
		if code.String() != want || want == "" && rest != in {
			t.Errorf("ParseEnhanced(%q) = %q, %q; want %q", in, code, rest, want)
		}
	}
	if _, rest := ParseEnhanced("4.7.28  a b"); rest != "a b" {
		t.Errorf("the rest is %q", rest)
	}
}
