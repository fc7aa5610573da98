module corten.test/reaper

go 1.19
