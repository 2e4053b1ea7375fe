# After `bundle install` the gems are Bundler's; without it they are the system's own (on Debian: ruby-railties,
# ruby-activerecord, ruby-pg, puma).
if File.exist?(File.expand_path("../Gemfile.lock", __dir__))
  ENV["BUNDLE_GEMFILE"] ||= File.expand_path("../Gemfile", __dir__)
  require "bundler/setup"
end
