package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// apiClient speaks the public HTTP API as any client program does.
type apiClient struct {
	base string
	http *http.Client
}

type grant struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
}

// apiError is a refusal of the HTTP API or of a handshake.
type apiError struct {
	status       int
	code, detail string
}

func (e *apiError) Error() string {
	if e.code == "" {
		return fmt.Sprintf("refused %d", e.status)
	}
	return fmt.Sprintf("refused %d %s: %s", e.status, printable(e.code), printable(e.detail))
}

// readAPIError reads problem+json (RFC 9457), or the error of an OAuth
// endpoint (RFC 6749 section 5.2).
func readAPIError(res *http.Response) error {
	defer res.Body.Close()
	var p struct {
		Code        string `json:"code"`
		Detail      string `json:"detail"`
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	_ = json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&p)
	if p.Code == "" {
		p.Code, p.Detail = p.Error, p.Description
	}
	return &apiError{res.StatusCode, p.Code, p.Detail}
}

func (a *apiClient) post(ctx context.Context, path, bearer, contentType string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", contentType)
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	res, err := a.http.Do(req)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return readAPIError(res)
	}
	defer res.Body.Close()
	return json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(out)
}

func (a *apiClient) postJSON(ctx context.Context, path, bearer string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return a.post(ctx, path, bearer, "application/json", body, out)
}

func (a *apiClient) login(ctx context.Context, user, password string) (g grant, err error) {
	err = a.postJSON(ctx, "/login", "", map[string]string{"username": user, "password": password}, &g)
	return g, err
}

func (a *apiClient) ticket(ctx context.Context, bearer, path, origin string) (string, error) {
	in := map[string]string{"path": path}
	if origin != "" {
		in["origin"] = origin
	}
	var out struct {
		Ticket string `json:"ticket"`
	}
	err := a.postJSON(ctx, "/ticket", bearer, in, &out)
	return out.Ticket, err
}

func (a *apiClient) refresh(ctx context.Context, refreshToken, cid string) (g grant, err error) {
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refreshToken}, "connection": {cid}}
	err = a.post(ctx, "/token", "", "application/x-www-form-urlencoded", []byte(form.Encode()), &g)
	return g, err
}
