require_relative "boot"

require "rails"
require "active_record/railtie"
require "action_controller/railtie"
require "action_view/railtie"

module LegacyApp
  class Application < Rails::Application
    config.load_defaults 6.1
    config.eager_load = Rails.env.production?
    # The page before this one is seldom worth a gigabyte of log.
    config.log_level = :info
    config.active_record.schema_format = ENV.fetch("SCHEMA_FORMAT", "ruby").to_sym
    config.active_record.dump_schema_after_migration = !Rails.env.production?
  end
end
