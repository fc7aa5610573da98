// A reaper for tests that speaks testcontainers' protocol and does what its ryuk does, from inside a container: it takes
// lines of filters (`label=a=b&label=c=d`) on port 8080, each answered with ACK, and, when its last client has been
// gone for RYUK_RECONNECTION_TIMEOUT, removes containers, networks, volumes and images that match, through the engine's
// socket.  It is not ryuk, which is not to be had offline.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"net"
	"net/url"
	"os"
	"strings"
	"time"
)

const socket = "/var/run/docker.sock"

// One request by HTTP/1.0: the body ends with the connection.
func ask(method, target string) ([]byte, error) {
	connection, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	connection.Write([]byte(method + " /v1.44" + target + " HTTP/1.0\r\nHost: docker\r\n\r\n"))
	var answer strings.Builder
	if _, err := bufio.NewReader(connection).WriteTo(&answer); err != nil {
		return nil, err
	}
	head, body, _ := strings.Cut(answer.String(), "\r\n\r\n")
	status := strings.SplitN(head, " ", 3)
	if len(status) < 2 || !strings.HasPrefix(status[1], "2") {
		return nil, errors.New(method + " " + target + ": " + strings.SplitN(head, "\r\n", 2)[0] + " " + body)
	}
	return []byte(body), nil
}

type object struct{ Id, ID, Name string }

func list(path string, filter string) []object {
	body, err := ask("GET", path+url.QueryEscape(filter))
	if err != nil {
		println(err.Error())
		return nil
	}
	var found []object
	if json.Unmarshal(body, &found) != nil {
		var volumes struct{ Volumes []object }
		json.Unmarshal(body, &volumes)
		found = volumes.Volumes
	}
	return found
}

func reap(filter string) {
	kinds := []struct{ list, remove, query string }{
		{"/containers/json?all=1&filters=", "/containers/", "?force=1&v=1"},
		{"/networks?filters=", "/networks/", ""},
		{"/volumes?filters=", "/volumes/", "?force=1"},
		{"/images/json?filters=", "/images/", "?force=1"},
	}
	for _, kind := range kinds {
		for _, one := range list(kind.list, filter) {
			name := one.Id
			if name == "" {
				name = one.Name
			}
			if _, err := ask("DELETE", kind.remove+url.PathEscape(name)+kind.query); err != nil {
				println(err.Error())
			}
		}
	}
}

func filter(line string) string {
	values, _ := url.ParseQuery(line)
	text, _ := json.Marshal(values)
	return string(text)
}

func serve(connection net.Conn, filters chan<- string, gone chan<- int) {
	lines := bufio.NewScanner(connection)
	for lines.Scan() {
		filters <- filter(lines.Text())
		connection.Write([]byte("ACK\n"))
	}
	connection.Close()
	gone <- -1
}

func main() {
	patience, err := time.ParseDuration(os.Getenv("RYUK_RECONNECTION_TIMEOUT"))
	if err != nil {
		patience = 10 * time.Second
	}
	listener, err := net.Listen("tcp", ":8080")
	if err != nil {
		panic(err)
	}
	println("reaper: Started!")
	filters, count := make(chan string), make(chan int)
	go func() {
		for {
			if connection, err := listener.Accept(); err == nil {
				count <- 1
				go serve(connection, filters, count)
			}
		}
	}()
	known, clients := map[string]bool{}, 0
	for end := time.After(time.Minute); ; {
		select {
		case one := <-filters:
			known[one] = true
		case change := <-count:
			clients += change
			end = nil
			if clients == 0 {
				end = time.After(patience)
			}
		case <-end:
			for one := range known {
				reap(one)
			}
			return
		}
	}
}
