package notice

import "testing"

func TestRemoteMTA(t *testing.T) {
	for reason, want := range map[string]string{
		"host mx.mail.example[192.0.2.7] said: 550 no":                                     "mx.mail.example",
		"SMTP error after RCPT TO:<a@b.example>: host MX.mail.example [192.0.2.7]: 550 no": "mx.mail.example",
		"... while talking to mx.mail.example.: <<< 550 no":                                "mx.mail.example",
		"connect to mx.mail.example[192.0.2.7]:25: Connection timed out":                   "mx.mail.example",
		"SMTP error, host: mx.mail.example (192.0.2.7) reason: 550 no":                     "mx.mail.example",
		"host 192.0.2.7 said: 550 no":                                                      "",
		"the host is down":                                                                 "",
		"550 no":                                                                           "",
	} {
		if got := remoteMTA(reason); got != want {
			t.Errorf("remoteMTA(%q) = %q, want %q", reason, got, want)
		}
	}
}
